-- A database for auth and one for translators, each with a user of its own who can use no other. For psql, by a superuser
-- or by a user who may make databases and users; it may be run again, to change the passwords for example:
--
--   PASSWORDS=secrets/postgres psql --host HOST --username postgres --dbname postgres --file databases.sql
--
-- PASSWORDS: the folder with the files `auth` and `translator` that `gstack secrets` makes.
\set ON_ERROR_STOP on
\set auth `cat "$PASSWORDS/auth"`
\set translator `cat "$PASSWORDS/translator"`
SELECT :'auth' <> '' AND :'translator' <> '' AS given \gset
\if :given
\else
DO $$ BEGIN RAISE EXCEPTION 'PASSWORDS must name the folder with the files auth and translator'; END $$;
\endif

SELECT format('CREATE ROLE %I', name) FROM unnest(ARRAY['gstack_auth', 'gstack_translator']) AS name
WHERE name NOT IN (SELECT rolname FROM pg_roles) \gexec
ALTER ROLE gstack_auth LOGIN PASSWORD :'auth';
ALTER ROLE gstack_translator LOGIN PASSWORD :'translator';

-- Who is no superuser gives a database away to roles of which it is a member.
SELECT format('GRANT gstack_auth, gstack_translator TO %I', current_user)
WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) \gexec
SELECT format('CREATE DATABASE %I OWNER %I', name, name) FROM unnest(ARRAY['gstack_auth', 'gstack_translator']) AS name
WHERE name NOT IN (SELECT datname FROM pg_database) \gexec

REVOKE ALL ON DATABASE gstack_auth, gstack_translator FROM PUBLIC;
