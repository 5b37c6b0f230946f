"""docker-compose.yml, .env.example and monitoring/, written from the descriptions of servers.

`files` puts them together, `variables` is what users change, `beside` the services that are no vLLM servers, and
`monitoring` what Prometheus and Grafana read. Nothing here writes a file or starts anything.
"""

from .files import env_example, files, generate, variable_rows

__all__ = ["env_example", "files", "generate", "variable_rows"]
