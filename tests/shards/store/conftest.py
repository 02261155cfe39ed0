"""One server of S3, and one of Google's, for all tests of stores."""

from google_server import google, running_google
from store_servers import running_server, server

__all__ = ["google", "running_google", "running_server", "server"]
