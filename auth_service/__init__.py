"""The auth service: an OAuth 2.0 authorization server whose users are CloudStack users. A gRPC service."""
