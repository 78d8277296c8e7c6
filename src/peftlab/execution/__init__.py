"""Runs in processes of their own, on this machine or on those of a cluster."""
