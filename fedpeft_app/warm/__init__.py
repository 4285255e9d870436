"""The warm worker: processes on a node that keep the model between messages.

Flower starts a process for every message. It stays thin (`door`) and hands the work to a daemon
(`keeper`), which holds processes with model and data in memory (`trainers`).
"""
