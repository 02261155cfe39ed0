"""One server of S3 for all tests of stores."""

from store_servers import running_server, server

__all__ = ["running_server", "server"]
