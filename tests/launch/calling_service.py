"""A service that keeps calling: one line for each answer, until SIGTERM; then it ends what it is at, and itself.

python calling_service.py MODEL
"""

import signal
import sys

import ollama_compat as ollama

goes_on = True


def stop(*_):
    """Not before the call that runs has its answer."""
    global goes_on
    goes_on = False


signal.signal(signal.SIGTERM, stop)
while goes_on:
    answer = ollama.chat(sys.argv[1], [{"role": "user", "content": "Hi"}], options={"num_predict": 4})
    print("answered:", repr(answer.message.content), flush=True)
