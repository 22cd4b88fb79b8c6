"""Installs the mesh from its charts, without Helm."""
