"""The console's process: it collects telemetry for one machine and answers what is asked about it."""
