"""Volumes: the directories that are mounted into containers, and what keeps their content up to date."""
