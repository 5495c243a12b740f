"""The translator: GCE resources to CloudStack calls and back, and durable operations. A gRPC service."""
