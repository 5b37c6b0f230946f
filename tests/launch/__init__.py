"""`vllm-launch` with the real vLLM: processes, arguments, memory plan, start failures, figures, and vLLM's router.

`warm_starts.py` and `vllm_memory.py` are scripts for the Python that has vLLM; `calling_service.py` is a service that
calls a model during a rollback.
"""
