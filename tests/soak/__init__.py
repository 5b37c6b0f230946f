"""Full load with random faults for some minutes: `python -m tests.soak`, which `make soak` runs."""
