"""Pools of response pairs: reading, checking, splitting, and the tables that stages exchange."""
