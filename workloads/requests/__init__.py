"""What a service is asked: requests with arrivals, lengths, contents, sessions and priorities."""

from workloads.requests.table import Requests, make_requests

__all__ = ["Requests", "make_requests"]
