"""How GCE speaks, the same for every collection. Knows no CloudStack call and no request."""
