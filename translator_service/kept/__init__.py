"""Where GCE's data lives that CloudStack has no field for: details and tags of its resources, user data, the store."""
