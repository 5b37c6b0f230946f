"""Generates docker-compose.yml, .env.example and monitoring/ from the descriptions of servers. Pure.

`files` combines the parts, `variables` defines the settings, `auxiliary` the services other than vLLM, and `monitoring`
the files of Prometheus and Grafana.
"""

from .files import env_example, files, generate, variable_rows

__all__ = ["env_example", "files", "generate", "variable_rows"]
