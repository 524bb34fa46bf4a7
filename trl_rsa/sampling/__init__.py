"""Responses from policies: how they are drawn, by which engine, and with which noise."""
