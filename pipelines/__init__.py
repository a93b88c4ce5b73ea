"""Bulk work beside the gateway, on one machine or a cluster."""
