-- Who talked to whom, in a fleet: from the rows that its hosts have recorded to the edges of a map.
--
-- The rows are in the view `recorded`, which an engine makes (inputs.py): of DuckDB or Spark, and this
-- file is written in what both understand. Its columns:
--
--   host, netns_key      where the row is from; the key names a network namespace of the whole fleet
--   type                 connect, accept or close
--   ts                   nanoseconds since 1970 by the clock of that host
--   id, socket, numbers  hashes: of the row in its file; of host and ends; of host and sequence numbers
--   label                what the map shows of the process, by --by
--   laddr lport raddr rport, iss irs    the ends, and the initial sequence numbers of both
--   outcome              of a connect: established, or why it failed
--   name, latency_ns     of a connect
--   tx_bytes, rx_bytes   of a close
--   is_loopback          whether it cannot have left its namespace
--   is_wanted            whether it passes the filters
--   is_in_time           whether it is between --since and --until

-- 1. What each host has seen of each connection, once, with the bytes that its end tells.
--
-- With sequence numbers, all rows of one end have the same `numbers`, and no others: its close, and
-- what a second recorder on the host has seen of it.

CREATE TEMP VIEW closed AS
SELECT numbers, MAX(tx_bytes) AS tx_bytes, MAX(rx_bytes) AS rx_bytes
FROM recorded
WHERE type = 'close' AND iss IS NOT NULL
GROUP BY numbers;

CREATE TEMP VIEW seen_twice AS
SELECT numbers, MIN(id) AS id
FROM recorded
WHERE type <> 'close' AND iss IS NOT NULL
GROUP BY numbers
HAVING COUNT(*) > 1;

-- Without, a close belongs to what was opened last before it on the same ports.

CREATE TEMP VIEW by_turns AS
SELECT
    *,
    LEAD(tx_bytes) OVER (PARTITION BY socket ORDER BY ts, type) AS next_tx_bytes,
    LEAD(rx_bytes) OVER (PARTITION BY socket ORDER BY ts, type) AS next_rx_bytes
FROM recorded
WHERE iss IS NULL AND outcome = 'established';

CREATE TABLE opened AS
SELECT
    r.id, r.type, r.host, r.netns_key, r.ts, r.label, r.laddr, r.lport, r.raddr, r.rport,
    r.iss, r.irs, r.name, r.latency_ns, r.is_loopback, r.is_wanted, r.is_in_time,
    c.tx_bytes, c.rx_bytes
FROM recorded r
LEFT JOIN closed c ON c.numbers = r.numbers
LEFT JOIN seen_twice t ON t.numbers = r.numbers
WHERE r.type <> 'close' AND r.outcome = 'established' AND r.iss IS NOT NULL
    AND (t.id IS NULL OR t.id = r.id)
UNION ALL
SELECT
    id, type, host, netns_key, ts, label, laddr, lport, raddr, rport,
    iss, irs, name, latency_ns, is_loopback, is_wanted, is_in_time,
    next_tx_bytes, next_rx_bytes
FROM by_turns
WHERE type <> 'close';

CREATE TEMP VIEW connects AS
SELECT * FROM opened WHERE type = 'connect';

CREATE TEMP VIEW accepts AS
SELECT * FROM opened WHERE type = 'accept';

-- 2. Which connect and which accept are of one connection.
--
-- The pair of sequence numbers is the best evidence: 64 bits that address translation does not change,
-- whatever the clocks say.

CREATE TABLE by_numbers AS
SELECT
    c.id AS connect_id, a.id AS accept_id, c.host AS client_host, a.host AS server_host,
    a.ts - c.ts AS apart_ns, CAST(FLOOR(c.ts / 3600000000000.0) AS INT) AS hour, 1 AS evidence
FROM connects c
JOIN accepts a ON c.iss = a.irs AND c.irs = a.iss;

-- Of the rest, the ends: the same addresses and ports, seen from both sides, rather on one host than on
-- two, for containers have the same addresses on many. The client's number must not speak against it,
-- and what is on the loopback device stays in its namespace.

CREATE TEMP VIEW other_connects AS
SELECT * FROM connects WHERE NOT EXISTS (SELECT 1 FROM by_numbers n WHERE n.connect_id = connects.id);

CREATE TEMP VIEW other_accepts AS
SELECT * FROM accepts WHERE NOT EXISTS (SELECT 1 FROM by_numbers n WHERE n.accept_id = accepts.id);

CREATE TABLE by_ends AS
SELECT
    c.id AS connect_id, a.id AS accept_id, c.host AS client_host, a.host AS server_host,
    a.ts - c.ts AS apart_ns, CAST(FLOOR(c.ts / 3600000000000.0) AS INT) AS hour,
    CASE WHEN c.host = a.host THEN 2 ELSE 3 END AS evidence
FROM other_connects c
JOIN other_accepts a
    ON c.laddr = a.raddr AND c.lport = a.rport AND c.raddr = a.laddr AND c.rport = a.lport
WHERE a.ts - c.ts BETWEEN -300000000000 AND 300000000000
    AND (c.iss IS NULL OR a.irs IS NULL OR c.iss = a.irs)
    AND (c.netns_key = a.netns_key OR NOT c.is_loopback);

CREATE TEMP VIEW candidates AS
SELECT * FROM by_numbers UNION ALL SELECT * FROM by_ends;

-- How far the clock of each server's host is ahead of that of each client's: what most of their pairs
-- say, to a tenth of a second, of all the time (hour is NULL), and of each hour, since clocks drift, and
-- are set. Ends alone have to agree three times.

CREATE TEMP VIEW tenths AS
SELECT
    client_host, server_host, hour, evidence,
    CAST(ROUND(apart_ns / 100000000.0) AS BIGINT) AS tenth,
    COUNT(*) AS pairs, SUM(CAST(FLOOR(apart_ns / 1000.0) AS BIGINT)) AS apart_us
FROM candidates
WHERE client_host <> server_host
GROUP BY client_host, server_host, hour, evidence, CAST(ROUND(apart_ns / 100000000.0) AS BIGINT);

CREATE TABLE clocks AS
WITH spans AS (
    SELECT * FROM tenths
    UNION ALL
    SELECT
        client_host, server_host, CAST(NULL AS INT), evidence, tenth,
        SUM(pairs) AS pairs, SUM(apart_us) AS apart_us
    FROM tenths
    GROUP BY client_host, server_host, evidence, tenth
), ranked AS (
    SELECT
        *,
        ROW_NUMBER() OVER (
            PARTITION BY client_host, server_host, hour
            ORDER BY evidence, pairs DESC, ABS(tenth), tenth
        ) AS place
    FROM spans
    WHERE evidence = 1 OR pairs >= 3
)
SELECT
    client_host, server_host, hour, pairs,
    CAST(FLOOR(apart_us / CAST(pairs AS DOUBLE)) AS BIGINT) * 1000 AS ahead_ns
FROM ranked
WHERE place = 1;

-- Ends are of one connection if they are at most two seconds apart then. One connect and one accept
-- that are each other's best candidates are a pair, and neither is in another. Where numbers have come
-- again, a clock that nobody else bears out does not count: each candidate would be right by its own.

CREATE TABLE pairs AS
WITH corrected AS (
    SELECT
        c.connect_id, c.accept_id, c.evidence,
        ABS(c.apart_ns - COALESCE(
            CASE WHEN c.evidence > 1 OR h.pairs >= 3 THEN h.ahead_ns END,
            CASE WHEN c.evidence > 1 OR k.pairs >= 3 THEN k.ahead_ns END,
            0
        )) AS apart_ns
    FROM candidates c
    LEFT JOIN clocks h
        ON h.client_host = c.client_host AND h.server_host = c.server_host AND h.hour = c.hour
    LEFT JOIN clocks k
        ON k.client_host = c.client_host AND k.server_host = c.server_host AND k.hour IS NULL
), ranked AS (
    SELECT
        connect_id, accept_id,
        ROW_NUMBER() OVER (
            PARTITION BY connect_id ORDER BY evidence, apart_ns, accept_id
        ) AS place_of_accept,
        ROW_NUMBER() OVER (
            PARTITION BY accept_id ORDER BY evidence, apart_ns, connect_id
        ) AS place_of_connect
    FROM corrected
    WHERE evidence = 1 OR apart_ns <= 2000000000
)
SELECT connect_id, accept_id FROM ranked WHERE place_of_accept = 1 AND place_of_connect = 1;

-- 3. Connections: pairs, and what has no other end.

CREATE TABLE connections AS
SELECT
    c.label AS client, c.host AS client_host, c.netns_key, c.raddr, c.rport,
    a.label AS server, a.host AS server_host, COALESCE(a.lport, c.rport) AS port,
    a.id IS NOT NULL AS is_paired, c.name, 'established' AS outcome, c.latency_ns, c.ts,
    COALESCE(c.tx_bytes, a.rx_bytes) AS tx_bytes, COALESCE(c.rx_bytes, a.tx_bytes) AS rx_bytes,
    c.is_wanted OR COALESCE(a.is_wanted, FALSE) AS is_wanted, c.is_in_time
FROM connects c
LEFT JOIN pairs p ON p.connect_id = c.id
LEFT JOIN accepts a ON a.id = p.accept_id;

-- Who answers at an address, as a namespace sees it, where that is always the same: attempts from there
-- that failed were meant for it, too.

CREATE TEMP VIEW answers AS
SELECT
    netns_key, raddr, rport, MIN(server) AS server, MIN(server_host) AS server_host, MIN(port) AS port
FROM connections
WHERE is_paired
GROUP BY netns_key, raddr, rport
HAVING MIN(server_host) = MAX(server_host) AND MIN(port) = MAX(port)
    AND COALESCE(MIN(server), '') = COALESCE(MAX(server), '');

CREATE TEMP VIEW failures AS
SELECT r.*, a.server, a.server_host, COALESCE(a.port, r.rport) AS port
FROM recorded r
LEFT JOIN answers a ON a.netns_key = r.netns_key AND a.raddr = r.raddr AND a.rport = r.rport
WHERE r.type = 'connect' AND r.outcome <> 'established';

-- What nobody has accepted who is recorded ends at its name or address, and what nobody has asked for
-- begins at its address.

CREATE TEMP VIEW arrows AS
SELECT
    'process' AS client_kind, client, client_host,
    CASE WHEN is_paired THEN 'process' ELSE 'external' END AS server_kind,
    CASE WHEN is_paired THEN server ELSE COALESCE(name, raddr) END AS server, server_host, port,
    name, 1 AS attempts, outcome, latency_ns, ts, tx_bytes, rx_bytes, is_wanted, is_in_time
FROM connections
UNION ALL
SELECT
    'process', label, host,
    CASE WHEN server_host IS NULL THEN 'external' ELSE 'process' END,
    CASE WHEN server_host IS NULL THEN COALESCE(name, raddr) ELSE server END, server_host, port,
    name, 1, outcome, NULL, ts, NULL, NULL, is_wanted, is_in_time
FROM failures
UNION ALL
SELECT
    'unmonitored', raddr, NULL, 'process', label, host, lport,
    NULL, 1, outcome, NULL, ts, rx_bytes, tx_bytes, is_wanted, is_in_time
FROM (
    SELECT *, 'established' AS outcome FROM accepts
    WHERE NOT EXISTS (SELECT 1 FROM pairs p WHERE p.accept_id = accepts.id)
) others;

-- 4. Edges. Latencies are counted in steps of 2 %, and a quantile is the mean of its step.

CREATE TEMP VIEW steps AS
SELECT
    client_kind, client, client_host, server_kind, server, server_host, port,
    CAST(ROUND(LN(GREATEST(latency_ns, 1)) * 50) AS BIGINT) AS step,
    COUNT(latency_ns) AS latencies, SUM(latency_ns) AS latency_ns,
    MIN(name) AS name, SUM(attempts) AS attempts,
    SUM(CASE WHEN outcome = 'refused' THEN 1 ELSE 0 END) AS refused,
    SUM(CASE WHEN outcome = 'timeout' THEN 1 ELSE 0 END) AS timed_out,
    SUM(CASE WHEN outcome = 'unreachable' THEN 1 ELSE 0 END) AS unreachable,
    SUM(CASE WHEN outcome = 'aborted' THEN 1 ELSE 0 END) AS aborted,
    SUM(CASE WHEN outcome IN ('established', 'refused', 'timeout', 'unreachable', 'aborted')
        THEN 0 ELSE 1 END) AS failed_otherwise,
    SUM(tx_bytes) AS tx_bytes, SUM(rx_bytes) AS rx_bytes, MIN(ts) AS first_ns, MAX(ts) AS last_ns
FROM arrows
WHERE is_wanted AND is_in_time
GROUP BY
    client_kind, client, client_host, server_kind, server, server_host, port,
    CAST(ROUND(LN(GREATEST(latency_ns, 1)) * 50) AS BIGINT);

CREATE TEMP VIEW climbed AS
SELECT
    *,
    latency_ns / CAST(latencies AS DOUBLE) AS mean_ns,
    SUM(latencies) OVER (
        PARTITION BY client_kind, client, client_host, server_kind, server, server_host, port
        ORDER BY step
    ) AS below,
    SUM(latencies) OVER (
        PARTITION BY client_kind, client, client_host, server_kind, server, server_host, port
    ) AS all_latencies
FROM steps;

CREATE TABLE edges AS
SELECT
    client_kind, client, client_host, server_kind, server, server_host, port,
    MIN(name) AS name, SUM(attempts) AS attempts, SUM(refused) AS refused,
    SUM(timed_out) AS timed_out, SUM(unreachable) AS unreachable, SUM(aborted) AS aborted,
    SUM(failed_otherwise) AS failed_otherwise, SUM(tx_bytes) AS tx_bytes, SUM(rx_bytes) AS rx_bytes,
    MIN(CASE WHEN latencies > 0 AND below >= 0.5 * all_latencies THEN mean_ns END) AS p50_ns,
    MIN(CASE WHEN latencies > 0 AND below >= 0.95 * all_latencies THEN mean_ns END) AS p95_ns,
    MIN(first_ns) AS first_ns, MAX(last_ns) AS last_ns
FROM climbed
GROUP BY client_kind, client, client_host, server_kind, server, server_host, port;
