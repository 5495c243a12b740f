"""The REST edge: GCE requests in, gRPC out. Knows HTTP, JSON and the protos; no CloudStack, no secret, no resource."""
