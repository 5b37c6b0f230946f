"""The client on real vLLM servers with small models: what users rely on, operation by operation.

The fixtures of tests/conftest.py start the servers. A test checks the content of an answer, never how vLLM divides it
into events or how long it takes.
"""
