"""Pools of answer pairs: reading, checking, splitting, and the tables that stages exchange."""
