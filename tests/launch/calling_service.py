"""A service that calls a model repeatedly and prints a line for each answer. On SIGTERM it ends after the current call.

python calling_service.py MODEL
"""

import signal
import sys

import ollama_compat as ollama

stopping = False


def stop(*_):
    """Ends the loop after the current call."""
    global stopping
    stopping = True


signal.signal(signal.SIGTERM, stop)
while not stopping:
    answer = ollama.chat(sys.argv[1], [{"role": "user", "content": "Hi"}], options={"num_predict": 4})
    print("answered:", repr(answer.message.content), flush=True)
