"""Networks and firewalls: what GCE's mean in CloudStack's kinds of zones."""
