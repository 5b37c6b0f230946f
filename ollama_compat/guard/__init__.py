"""What stands around a call: its turn, who answers it, what is done when one can't, and what is told of it after.

guard.py      one call through all of it
turns.py      rates and places: when a call may begin
routes.py     who may answer: vLLM, then what stands in for it (another model, a provider, Ollama)
flight.py     what one call does for all that want it
failures.py   what each failure allows: the same server again, another one, neither
breaker.py    a server that fails again and again is left alone for a while
retry.py      how long to wait before the same server is asked again
rates.py      calls counted in memory or in Redis
stats.py      what happened, counted
company.py    observers that are to be there while a call is at work
health.py     how the servers are
log.py        the log of decisions
"""
