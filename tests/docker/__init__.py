"""`vllm-launch`, docker-compose.yml and the Kubernetes manifests on a real Docker engine, with a fake or the real vLLM.

`conftest` makes the images, `helpers` and `command` run servers and the command; `registry`, `relay` and
`second_engine` provide the faults of an engine. Without an engine the tests are skipped.
"""
