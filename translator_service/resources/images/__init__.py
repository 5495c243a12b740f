"""Images: CloudStack templates, and what everything that clients write for an image means.

In public image projects (`debian-cloud`) are the templates that the operator maps to them, or those that have the
project's system in their names; `get`, `getFromFamily` and references find the newest that has the words of what is
asked. What was asked for through such a project is kept with the disk, and shown in its links.

Any account may call a template "Debian 12" and make it public. So only what the operator vouches for is found there:
featured templates, which nobody but an operator can make, and those that the names file names by their ids. Families of
the caller's own project hold its own templates too. What others share is found by its name, and by nothing else.

An image that is made here is a template of its name, with what CloudStack has no place for in its tags (`about`), or
another name of one (`second`). It has the family that it was given, or none: words of its name make none.
"""
