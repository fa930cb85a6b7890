-- After TPC-H: its eight tables, with their keys. Numbers of rows stand in braces.
CREATE TABLE region (r_regionkey int PRIMARY KEY, r_name varchar(25));
CREATE TABLE nation (n_nationkey int PRIMARY KEY, n_name varchar(25), n_regionkey int);
CREATE TABLE supplier (s_suppkey int PRIMARY KEY, s_name varchar(25), s_nationkey int, s_acctbal numeric(15,2), s_comment varchar(101));
CREATE TABLE part (p_partkey int PRIMARY KEY, p_name varchar(55), p_brand varchar(10), p_type varchar(25), p_size int,
    p_container varchar(10), p_retailprice numeric(15,2));
CREATE TABLE partsupp (ps_partkey int, ps_suppkey int, ps_availqty int, ps_supplycost numeric(15,2), PRIMARY KEY (ps_partkey, ps_suppkey));
CREATE TABLE customer (c_custkey int PRIMARY KEY, c_name varchar(25), c_nationkey int, c_phone char(15), c_acctbal numeric(15,2),
    c_mktsegment varchar(10));
CREATE TABLE orders (o_orderkey int PRIMARY KEY, o_custkey int, o_orderstatus char(1), o_totalprice numeric(15,2), o_orderdate date,
    o_orderpriority varchar(15), o_shippriority int);
CREATE TABLE lineitem (l_orderkey int, l_linenumber int, l_partkey int, l_suppkey int, l_quantity numeric(15,2),
    l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag char(1), l_linestatus char(1),
    l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct varchar(25), l_shipmode varchar(10),
    PRIMARY KEY (l_orderkey, l_linenumber));
INSERT INTO region SELECT r, (ARRAY['AFRICA', 'AMERICA', 'ASIA', 'EUROPE', 'MIDDLE EAST'])[r + 1] FROM generate_series(0, 4) r;
INSERT INTO nation SELECT n, 'NATION' || n, n % 5 FROM generate_series(0, 24) n;
INSERT INTO supplier SELECT s, 'Supplier' || s, (random() * 24)::int, (random() * 11000 - 1000)::numeric(15,2), repeat('c', 60)
    FROM generate_series(1, {hs}) s;
INSERT INTO part SELECT p, 'part ' || p || ' ' || (ARRAY['green', 'red', 'blue', 'puff', 'lace'])[1 + p % 5], 'Brand#' || 1 + p % 25,
    'TYPE ' || p % 150, 1 + p % 50, 'BOX ' || p % 400, 900 + p % 1000 FROM generate_series(1, {hp}) p;
INSERT INTO partsupp SELECT p, 1 + (p + s * ({hs} / 4 + 1)) % {hs}, (random() * 9999)::int, (random() * 1000)::numeric(15,2)
    FROM generate_series(1, {hp}) p, generate_series(0, 3) s ON CONFLICT DO NOTHING;
INSERT INTO customer SELECT c, 'Customer' || c, (random() * 24)::int, (10 + c % 25) || '-' || c, (random() * 11000 - 1000)::numeric(15,2),
    (ARRAY['AUTOMOBILE', 'BUILDING', 'FURNITURE', 'MACHINERY', 'HOUSEHOLD'])[1 + (random() * 4)::int] FROM generate_series(1, {hc}) c;
INSERT INTO orders SELECT o, 1 + (random() * ({hc} - 1))::int, (ARRAY['O', 'F', 'P'])[1 + (random() * 2)::int], (random() * 400000)::numeric(15,2),
    date '1992-01-01' + (random() * 2400)::int, (ARRAY['1-URGENT', '2-HIGH', '3-MEDIUM', '4-LOW', '5-NONE'])[1 + (random() * 4)::int], 0
    FROM generate_series(1, {ho}) o;
INSERT INTO lineitem SELECT o_orderkey, l, 1 + (random() * ({hp} - 1))::int, 1 + (random() * ({hs} - 1))::int, 1 + (random() * 49)::int,
    (random() * 100000)::numeric(15,2), (random() * 10)::int / 100.0, (random() * 8)::int / 100.0,
    (ARRAY['R', 'A', 'N'])[1 + (random() * 2)::int], (ARRAY['O', 'F'])[1 + (random())::int], o_orderdate + (1 + random() * 120)::int,
    o_orderdate + (30 + random() * 60)::int, o_orderdate + (2 + random() * 150)::int,
    (ARRAY['DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN'])[1 + (random() * 3)::int],
    (ARRAY['REG AIR', 'AIR', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB'])[1 + (random() * 6)::int]
    FROM orders, generate_series(1, 4) l;
