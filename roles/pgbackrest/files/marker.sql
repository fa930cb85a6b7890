-- A row a minute, each with a digest of itself and the row before: what is restored shows by them to when it reaches,
-- and that nothing is missing before. https://www.postgresql.org/docs/17/functions-binarystring.html
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS terrace;
CREATE TABLE IF NOT EXISTS terrace.marker (
    number bigint PRIMARY KEY,
    written timestamptz NOT NULL,
    digest text NOT NULL
);
INSERT INTO terrace.marker (number, written, digest)
SELECT number, written, encode(sha256(convert_to(concat_ws(' ', before, number, written_at), 'UTF8')), 'hex')
FROM (
    SELECT coalesce(last.number, 0) + 1 AS number,
           coalesce(last.digest, '') AS before,
           clock_timestamp() AS written
    FROM (VALUES (1)) AS one LEFT JOIN (SELECT number, digest FROM terrace.marker ORDER BY number DESC LIMIT 1) AS last ON true
) AS next
CROSS JOIN LATERAL (SELECT extract(epoch FROM written) AS written_at) AS epoch;
-- A week of them.
DELETE FROM terrace.marker WHERE number <= (SELECT max(number) FROM terrace.marker) - 10080;
