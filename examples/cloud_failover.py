"""A service that goes on when its server is away: the call is answered by what VLLM_FAILOVER names.

    DEEPSEEK_API_KEY=… BACKEND_MODE=vllm python examples/cloud_failover.py

With a vLLM server in VLLM_URLS it answers; stop it, and DeepSeek does. Without DEEPSEEK_API_KEY, the client says at
once which variable is missing. FAILOVER names something else to stand in, such as `ollama:exaone3.5:7.8b`.
"""

import logging
import os
import sys

import ollama_compat as ollama

MODEL = os.getenv("CHAT_MODEL", "exaone3.5:7.8b")
STAND_IN = os.getenv("FAILOVER", "deepseek:deepseek-chat")


def main() -> int:
    logging.basicConfig(format="%(name)s: %(message)s")  # who stood in, and why
    try:
        client = ollama.Client(vllm_failover={MODEL: STAND_IN}, timeout=60)
    except ollama.SettingsError as problem:
        print(problem, file=sys.stderr)
        return 2
    reply = client.chat(MODEL, [{"role": "user", "content": "Say hello in one short sentence."}])
    print(f"{reply.model}: {reply.message.content}")
    for operations in client.stats()["models"].values():
        print(f"answered by {', '.join(operations['chat']['answered_by'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
