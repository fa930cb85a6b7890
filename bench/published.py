"""What others publish for a database host of some size, as plain settings of PostgreSQL 17.

These are facts about them, read in November 2026. Left out are addresses, certificates, replication slots' names, and
where logs are kept. Neither preloads by default what Debian's postgresql-17 does not bring (auto_explain and
pg_stat_statements), so no extension had to be left out; settings of those that they do not load are not repeated.
"""

from __future__ import annotations

import math


def autobase(cpus: int, memory_mb: int) -> dict[str, object]:
    """Return what Autobase gives such a host.

    vitabaks/autobase, automation/roles/common/defaults/main.yml, `postgresql_parameters`, at commit 00983665b992. Its
    initdb has data checksums where `postgresql_data_checksums` is true.

    Parameters:
        cpus: of the host.
        memory_mb: of the host, in MiB.
    """
    return {
        "max_connections": 1000,
        "superuser_reserved_connections": 5,
        "max_locks_per_transaction": 512,
        "max_prepared_transactions": 0,
        "huge_pages": "try",
        "shared_buffers": f"{memory_mb * 25 // 100}MB",
        "effective_cache_size": f"{memory_mb * 75 // 100}MB",
        "work_mem": "64MB",
        "maintenance_work_mem": "512MB",
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": 0.9,
        "min_wal_size": "1GB",
        "max_wal_size": "8GB",
        "wal_buffers": "32MB",
        "wal_level": "logical",
        "wal_keep_size": "1GB",
        "wal_log_hints": "on",
        "wal_compression": "on",
        "bgwriter_delay": "20ms",
        "bgwriter_lru_maxpages": 1000,
        "default_statistics_target": 1000,
        "seq_page_cost": 1,
        "random_page_cost": 1.1,
        "effective_io_concurrency": 200,
        "synchronous_commit": "on",
        "autovacuum": "on",
        "autovacuum_max_workers": 5,
        "autovacuum_analyze_scale_factor": 0.01,
        "autovacuum_vacuum_scale_factor": 0.01,
        "autovacuum_vacuum_insert_scale_factor": 0.1,
        "autovacuum_vacuum_cost_limit": 500,
        "autovacuum_vacuum_cost_delay": "2ms",
        "autovacuum_naptime": "1s",
        "archive_mode": "on",
        "archive_timeout": "1800s",
        "max_wal_senders": 20,
        "max_replication_slots": 20,
        "shared_preload_libraries": "pg_stat_statements,auto_explain",
        "pg_stat_statements.max": 10000,
        "pg_stat_statements.track": "all",
        "pg_stat_statements.track_planning": "on",
        "pg_stat_statements.track_utility": "off",
        "pg_stat_statements.save": "on",
        "auto_explain.log_min_duration": "10s",
        "auto_explain.log_analyze": "on",
        "auto_explain.log_buffers": "on",
        "auto_explain.log_timing": "off",
        "auto_explain.log_triggers": "on",
        "auto_explain.log_verbose": "on",
        "auto_explain.log_nested_statements": "on",
        "auto_explain.sample_rate": 0.01,
        "track_io_timing": "on",
        "track_activities": "on",
        "track_activity_query_size": 4096,
        "track_counts": "on",
        "track_functions": "all",
        "log_lock_waits": "on",
        "log_temp_files": 0,
        "log_checkpoints": "on",
        "log_rotation_age": "1d",
        "log_rotation_size": 0,
        "log_line_prefix": "%t [%p-%l] %r %q%u@%d ",
        "log_filename": "postgresql-%a.log",
        "log_truncate_on_rotation": "on",
        "logging_collector": "on",
        "jit": "off",
        "max_files_per_process": 4096,
        "max_worker_processes": max(cpus, 16),
        "max_parallel_workers": max(cpus // 2, 8),
        "max_parallel_workers_per_gather": 2,
        "max_parallel_maintenance_workers": 2,
        "tcp_keepalives_count": 10,
        "tcp_keepalives_idle": 300,
        "tcp_keepalives_interval": 30,
        "idle_in_transaction_session_timeout": "10min",
    }


def pigsty(cpus: int, memory_mb: int, disk_bytes: int) -> dict[str, object]:
    """Return what Pigsty's template for transactions gives such a host.

    pgsty/pigsty, roles/pgsql/templates/oltp.yml and roles/pgsql/defaults/main.yml, at commit 05dd7a25981a: data
    checksums, services that lead to its pooler, an SSD, pgBackRest, no Citus and no TimescaleDB. io_method, io_workers
    and idle_replication_slot_timeout are of PostgreSQL 18, so 17 cannot have them.

    Parameters:
        cpus: of the host.
        memory_mb: of the host, in MiB.
        disk_bytes: how large the file system of the data is.
    """
    connections = 500
    shared = math.ceil(memory_mb * 0.25)
    # A twentieth of the disk, in GB.
    part = min(max(math.ceil(disk_bytes / (20 * 1024**3)), 1), 100)
    return {
        "max_connections": connections,
        "superuser_reserved_connections": 10,
        "max_locks_per_transaction": connections,
        "max_prepared_transactions": 0,
        "track_commit_timestamp": "on",
        "wal_level": "logical",
        "wal_log_hints": "on",
        "max_worker_processes": max(cpus + 8, 16) + 8,
        "max_wal_senders": 50,
        "max_replication_slots": 50,
        "shared_buffers": f"{shared}MB",
        "maintenance_work_mem": f"{math.ceil(shared * 0.25)}MB",
        "work_mem": f"{min(max(shared // connections, 64), 1024)}MB",
        "max_parallel_workers": max(math.ceil(cpus * 0.5), 2),
        "max_parallel_maintenance_workers": max(math.ceil(cpus * 0.33), 2),
        "max_parallel_workers_per_gather": min(max(math.floor(cpus * 0.2), 2), 8),
        "parallel_setup_cost": 2000,
        "parallel_tuple_cost": 0.2,
        "min_parallel_table_scan_size": "16MB",
        "min_parallel_index_scan_size": 1024,
        "hash_mem_multiplier": 8.0,
        "huge_pages": "try",
        "temp_file_limit": f"{part}GB",
        "vacuum_cost_delay": "20ms",
        "vacuum_cost_limit": 2000,
        "bgwriter_delay": "10ms",
        "bgwriter_lru_maxpages": 800,
        "bgwriter_lru_multiplier": 5.0,
        "min_wal_size": f"{part}GB",
        "max_wal_size": f"{part * 4}GB",
        "max_slot_wal_keep_size": f"{part * 6}GB",
        "wal_buffers": "16MB",
        "wal_writer_delay": "20ms",
        "wal_writer_flush_after": "1MB",
        "commit_delay": 20,
        "commit_siblings": 10,
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": 0.8,
        "archive_mode": "on",
        "archive_timeout": "300s",
        "max_logical_replication_workers": 8,
        "max_sync_workers_per_subscription": 6,
        "random_page_cost": 1.1,
        "effective_io_concurrency": 200,
        "maintenance_io_concurrency": 100,
        "effective_cache_size": f"{memory_mb - shared}MB",
        "default_statistics_target": 400,
        "log_destination": "csvlog",
        "logging_collector": "on",
        "log_filename": "postgresql-%a.log",
        "log_rotation_age": "1d",
        "log_rotation_size": 0,
        "log_truncate_on_rotation": "on",
        "log_checkpoints": "on",
        "log_lock_waits": "on",
        "log_temp_files": "1MB",
        "log_replication_commands": "on",
        "log_statement": "ddl",
        "log_min_duration_statement": "100ms",
        "track_io_timing": "on",
        "track_functions": "all",
        "track_activity_query_size": 8192,
        "log_autovacuum_min_duration": "1s",
        "autovacuum_max_workers": 3,
        "autovacuum_naptime": "1min",
        "autovacuum_vacuum_scale_factor": 0.08,
        "autovacuum_analyze_scale_factor": 0.04,
        "autovacuum_vacuum_cost_delay": -1,
        "autovacuum_vacuum_cost_limit": -1,
        "autovacuum_freeze_max_age": 1000000000,
        "deadlock_timeout": "50ms",
        "idle_in_transaction_session_timeout": "10min",
        "shared_preload_libraries": "pg_stat_statements,auto_explain",
        "auto_explain.log_min_duration": "1s",
        "auto_explain.log_analyze": "on",
        "auto_explain.log_verbose": "on",
        "auto_explain.log_timing": "on",
        "auto_explain.log_nested_statements": "on",
        "pg_stat_statements.max": 10000,
        "pg_stat_statements.track": "all",
        "pg_stat_statements.track_utility": "off",
        "pg_stat_statements.track_planning": "off",
    }
