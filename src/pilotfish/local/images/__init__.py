"""Images: names mapped to commands on this machine, and the programs that are built in."""
