-- After TPC-C: its nine tables, with their keys. Numbers of rows stand in braces.
CREATE TABLE warehouse (w_id int PRIMARY KEY, w_name text, w_ytd numeric(12,2));
CREATE TABLE district (d_w_id int, d_id int, d_name text, d_ytd numeric(12,2), d_next_o_id int, PRIMARY KEY (d_w_id, d_id));
CREATE TABLE customer (c_w_id int, c_d_id int, c_id int, c_first varchar(16), c_last varchar(16), c_street varchar(20),
    c_city varchar(20), c_phone char(16), c_since timestamp, c_credit char(2), c_discount numeric(4,4), c_balance numeric(12,2),
    c_payment_cnt int, c_data varchar(250), PRIMARY KEY (c_w_id, c_d_id, c_id));
CREATE TABLE history (h_c_id int, h_c_d_id int, h_c_w_id int, h_d_id int, h_w_id int, h_date timestamp, h_amount numeric(6,2));
CREATE TABLE orders (o_w_id int, o_d_id int, o_id int, o_c_id int, o_entry_d timestamp, o_carrier_id int, o_ol_cnt int,
    PRIMARY KEY (o_w_id, o_d_id, o_id));
CREATE TABLE new_order (no_w_id int, no_d_id int, no_o_id int, PRIMARY KEY (no_w_id, no_d_id, no_o_id));
CREATE TABLE order_line (ol_w_id int, ol_d_id int, ol_o_id int, ol_number int, ol_i_id int, ol_delivery_d timestamp,
    ol_quantity int, ol_amount numeric(6,2), ol_dist_info char(24), PRIMARY KEY (ol_w_id, ol_d_id, ol_o_id, ol_number));
CREATE TABLE item (i_id int PRIMARY KEY, i_name varchar(24), i_price numeric(5,2), i_data varchar(50));
CREATE TABLE stock (s_w_id int, s_i_id int, s_quantity int, s_dist char(24), s_ytd int, s_order_cnt int, s_data varchar(50),
    PRIMARY KEY (s_w_id, s_i_id));
INSERT INTO warehouse SELECT w, 'w' || w, 0 FROM generate_series(1, {w}) w;
INSERT INTO district SELECT w, d, 'd' || d, 0, {o} + 1 FROM generate_series(1, {w}) w, generate_series(1, {d}) d;
INSERT INTO customer SELECT w, d, c, 'first' || (c * 7919) % 1000, 'LAST' || (random() * 999)::int, 'street', 'city' || c % 100,
    lpad((random() * 1e9)::bigint::text, 16, '0'), now(), CASE WHEN c % 10 = 0 THEN 'BC' ELSE 'GC' END, 0.1, -10, 1, repeat('x', 200)
    FROM generate_series(1, {w}) w, generate_series(1, {d}) d, generate_series(1, {c}) c;
INSERT INTO history SELECT c_id, c_d_id, c_w_id, c_d_id, c_w_id, now(), 10 FROM customer;
INSERT INTO orders SELECT w, d, o, 1 + (random() * ({c} - 1))::int, timestamp '2026-01-01' + o * interval '1 minute',
    CASE WHEN o <= {o} * 7 / 10 THEN 1 + (random() * 9)::int END, 10
    FROM generate_series(1, {w}) w, generate_series(1, {d}) d, generate_series(1, {o}) o;
INSERT INTO new_order SELECT o_w_id, o_d_id, o_id FROM orders WHERE o_carrier_id IS NULL;
INSERT INTO order_line SELECT o_w_id, o_d_id, o_id, l, 1 + (random() * ({i} - 1))::int,
    CASE WHEN o_carrier_id IS NOT NULL THEN o_entry_d END, 5, (random() * 999)::numeric(6,2), 'dist'
    FROM orders, generate_series(1, 10) l;
INSERT INTO item SELECT i, 'item' || i, (1 + random() * 99)::numeric(5,2), 'data' FROM generate_series(1, {i}) i;
INSERT INTO stock SELECT w, i, 10 + (random() * 90)::int, 'dist', 0, 0, 'data' FROM generate_series(1, {w}) w, generate_series(1, {i}) i;
