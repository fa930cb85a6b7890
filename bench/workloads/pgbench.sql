-- After pgbench: its four tables, with their keys. Numbers of rows stand in braces.
CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88));
CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
INSERT INTO pgbench_branches SELECT b, 0 FROM generate_series(1, 5) b;
INSERT INTO pgbench_tellers SELECT t, 1 + (t - 1) / 10, 0 FROM generate_series(1, 50) t;
INSERT INTO pgbench_accounts SELECT a, 1 + (a - 1) % 5, (random() * 10000 - 5000)::int, '' FROM generate_series(1, {accounts}) a;
INSERT INTO pgbench_history SELECT 1 + (random() * 49)::int, 1 + (random() * 4)::int, 1 + (random() * {accounts} - 1)::int,
    (random() * 10000 - 5000)::int, timestamp '2026-01-01' + h * interval '10 seconds' FROM generate_series(1, {history}) h;
