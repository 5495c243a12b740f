"""The only code that speaks to a CloudStack: signing, client, jobs, errors."""
