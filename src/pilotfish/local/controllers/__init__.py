"""The control loops: each watches the API and writes to it, like any other client."""
