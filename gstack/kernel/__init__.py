"""What the services share: settings, logging, errors, sealing, gRPC servers and channels. Imports no service."""
