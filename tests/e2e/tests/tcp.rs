//! TCP: TCPRoutes, and databases as they are, with nothing configured.
//!
//! The databases are real and unmodified; `tests/setup.sh` installs them. PostgreSQL's client speaks first,
//! MariaDB's server does, and redis answers in kind.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::manifest::{backends, client, meshed_namespace, namespace, service, tcp_route, tcp_server};
use e2e::{World, until};

const CLIENT: &str = "data/client";
/// Outside the mesh.
const STRANGER: &str = "plain/client";

e2e::prove!(
    up,
    [
        a_tcp_service_without_routes_carries_bytes,
        connections_that_follow_each_other_share_one_of_the_mesh,
        a_tcp_route_splits_connections_90_to_10,
        a_server_that_speaks_first_is_relayed_at_once,
        a_split_among_servers_that_speak_first_needs_no_configuration,
        a_client_that_stays_silent_is_waited_for,
        a_word_without_an_end_is_answered,
        an_unmeshed_client_is_greeted_at_once,
        one_side_may_close_before_the_other,
        large_streams_pass_in_both_directions,
        a_tcp_route_without_a_valid_backend_resets_and_its_status_says_why,
        a_tcp_route_with_a_zero_weight_never_picks_it,
        postgresql_answers_psql_and_pgbench,
        a_tcp_route_splits_postgresql,
        mariadb_answers_its_client,
        redis_answers_its_client,
        tcp_connections_are_counted,
    ]
);

/// Debian's own place of PostgreSQL's server programs, which is in nobody's PATH.
const POSTGRES: &str = r#"PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -1):$PATH
initdb -D /data/pg -U postgres -A trust -N >/data/initdb.log
echo 'host all all all trust' >>/data/pg/pg_hba.conf
exec postgres -D /data/pg -c listen_addresses='*' -c unix_socket_directories=/data -c fsync=off -c cluster_name=$POD_NAME"#;

/// Init files hold one statement a line.
const MARIADB: &str = r#"mariadb-install-db --no-defaults --datadir=/data/my --auth-root-authentication-method=normal --skip-test-db >/data/install.log
cat >/data/init.sql <<END
CREATE USER app@'%' IDENTIFIED BY 'secret';
GRANT ALL ON *.* TO app@'%';
END
PATH=$PATH:/usr/sbin exec mariadbd --no-defaults --datadir=/data/my --socket=/data/my.sock --pid-file=/data/my.pid --init-file=/data/init.sql"#;

const REDIS: &str = "exec redis-server --bind '* -::*' --protected-mode no --save '' --dir /data";

/// A pod that runs a database from a shell script, as nobody, in an emptyDir.
fn database(name: &str, app: &str, script: &str, ready: &[&str]) -> String {
    let script: String = script.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: data, labels: {{app: {app}, name: {name}}}}}
spec:
  securityContext: {{runAsUser: 65534, runAsGroup: 65534, fsGroup: 65534}}
  terminationGracePeriodSeconds: 5
  volumes: [{{name: data, emptyDir: {{}}}}]
  containers:
  - name: database
    image: none
    env: [{{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
    volumeMounts: [{{name: data, mountPath: /data}}]
    readinessProbe: {{exec: {{command: {ready:?}}}, periodSeconds: 1, failureThreshold: 60}}
    command: [sh, -ec]
    args:
    - |
{script}"
    )
}

fn up() -> Result<World> {
    let tcp =
        |name: &str, line: &str| tcp_server("data", name, &format!("app: tcp, name: {name}"), &[line, name]);
    let postgres = |name: &str| {
        database(name, "pg", POSTGRES, &["psql", "-h", "/data", "-U", "postgres", "-c", "select 1"])
    };
    let pings = ["mariadb", "--no-defaults", "-S", "/data/my.sock", "-u", "root", "-e", "select 1"];
    let each = |name: &str, port: u16| service("data", name, &format!("name: {name}"), &[(port, port)]);
    let manifests = [
        meshed_namespace("data"),
        client("data", "client"),
        namespace("plain", ""),
        client("plain", "client"),
        [tcp("late-v1", "--answer"), tcp("late-v2", "--answer")].concat(),
        [tcp("early-v1", "--greet"), tcp("early-v2", "--greet")].concat(),
        [postgres("pg-v1"), postgres("pg-v2")].concat(),
        database("my", "my", MARIADB, &pings),
        database("cache", "cache", REDIS, &["redis-cli", "ping"]),
        ["late-v1", "late-v2", "early-v1", "early-v2"].map(|name| each(name, 9000)).concat(),
        [each("pg-v1", 5432), each("pg-v2", 5432), each("my", 3306), each("cache", 6379)].concat(),
    ];
    World::up("tcp", &[], &manifests.concat())
}

/// A Service with a TCPRoute of the same name on it.
fn routed(world: &World, name: &str, port: u16, weights: &[(&str, u32)]) -> Result<()> {
    let service = service("data", name, "app: none", &[(port, port)]);
    let route = tcp_route("data", name, name, &format!("- {}", backends(port, weights)));
    world.apply(&[service, route].concat())
}

fn a_tcp_service_without_routes_carries_bytes(world: &World) -> Result<()> {
    let steps = ["send hello\\n", "line", "expect hello", "send bye", "expect bye", "shut", "eof"];
    let load = world.dialogues(CLIENT, "late-v1:9000", 20, &steps)?.all_well(20);
    assert_eq!(load.by("late-v1"), 20);
    Ok(())
}

fn connections_that_follow_each_other_share_one_of_the_mesh(world: &World) -> Result<()> {
    world
        .dialogues(CLIENT, "late-v1:9000", 20, &["send hello\\n", "expect hello", "shut", "eof"])?
        .all_well(20);
    let server = format!("dst {}:9000", world.pod_ip("data/late-v1")?);
    let count = |state: &str| -> Result<usize> {
        let found = world.exec(CLIENT, &["sh", "-c", &format!("ss -Htn state {state} {server}")])?.good()?;
        Ok(found.out.lines().count())
    };
    // The last one is kept, and none was closed: each would be remembered for a minute.
    assert_eq!((count("established")?, count("time-wait")?), (1, 0));
    Ok(())
}

fn a_tcp_route_splits_connections_90_to_10(world: &World) -> Result<()> {
    routed(world, "late", 9000, &[("late-v1", 90), ("late-v2", 10)])?;
    let load =
        world.dialogues(CLIENT, "late:9000", 500, &["send hello\\n", "line", "expect hello"])?.all_well(500);
    // Four standard deviations of a fair 90/10 over 500.
    load.share("late-v1", 90, 6);
    load.share("late-v2", 10, 6);
    Ok(())
}

fn a_server_that_speaks_first_is_relayed_at_once(world: &World) -> Result<()> {
    world.dialogue(CLIENT, "early-v1:9000", &["line"])?.good()?;
    let began = std::time::Instant::now();
    world.dialogues(CLIENT, "early-v1:9000", 20, &["line", "send hello", "expect hello"])?.all_well(20);
    let each = began.elapsed() / 20;
    eprintln!("a server's first line takes {each:?}");
    assert!(each < Duration::from_millis(250), "no timeout to sit through: {each:?}");
    Ok(())
}

fn a_split_among_servers_that_speak_first_needs_no_configuration(world: &World) -> Result<()> {
    routed(world, "early", 9000, &[("early-v1", 50), ("early-v2", 50)])?;
    let load =
        world.dialogues(CLIENT, "early:9000", 100, &["line", "send hello", "expect hello"])?.all_well(100);
    load.share("early-v1", 50, 20);
    load.share("early-v2", 50, 20);
    Ok(())
}

fn a_client_that_stays_silent_is_waited_for(world: &World) -> Result<()> {
    let steps = ["wait 1500", "send hello\\n", "line", "expect hello", "shut", "eof"];
    assert_eq!(world.dialogues(CLIENT, "late-v1:9000", 1, &steps)?.all_well(1).by("late-v1"), 1);
    Ok(())
}

/// `hello` could be the beginning of a method of HTTP; its sender waits for an answer all the same.
fn a_word_without_an_end_is_answered(world: &World) -> Result<()> {
    for client in [CLIENT, STRANGER] {
        let steps = ["send hello", "line", "expect hello", "send GE", "expect GE", "shut", "eof"];
        assert_eq!(world.dialogues(client, "late-v1.data:9000", 3, &steps)?.all_well(3).by("late-v1"), 3);
    }
    Ok(())
}

fn an_unmeshed_client_is_greeted_at_once(world: &World) -> Result<()> {
    let began = std::time::Instant::now();
    world
        .dialogues(STRANGER, "early-v1.data:9000", 10, &["line", "send hello", "expect hello"])?
        .all_well(10);
    let each = began.elapsed() / 10;
    assert!(each < Duration::from_millis(250), "no timeout to sit through: {each:?}");
    Ok(())
}

fn one_side_may_close_before_the_other(world: &World) -> Result<()> {
    let steps = ["line", "send all of it", "shut", "expect all of it", "eof"];
    world.dialogues(CLIENT, "early-v1:9000", 10, &steps)?.all_well(10);
    Ok(())
}

fn large_streams_pass_in_both_directions(world: &World) -> Result<()> {
    let steps = ["line", "round 8000000", "shut", "eof"];
    world.dialogues(CLIENT, "early-v1:9000", 2, &steps)?.all_well(2);
    Ok(())
}

fn a_tcp_route_without_a_valid_backend_resets_and_its_status_says_why(world: &World) -> Result<()> {
    routed(world, "lost", 9000, &[("nobody", 1)])?;
    world.dialogue(CLIENT, "lost:9000", &["send hello\\n", "line"])?.bad()?;
    let (status, reason, _) = world.condition("tcproute", "data/lost", "ResolvedRefs")?;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "BackendNotFound"));
    Ok(())
}

fn a_tcp_route_with_a_zero_weight_never_picks_it(world: &World) -> Result<()> {
    routed(world, "never", 9000, &[("late-v1", 0), ("late-v2", 1)])?;
    let load = world.dialogues(CLIENT, "never:9000", 50, &["send hello\\n", "line"])?.all_well(50);
    assert_eq!(load.by("late-v2"), 50);
    Ok(())
}

fn psql(world: &World, host: &str, query: &str) -> Result<String> {
    let output = world.exec(CLIENT, &["psql", "-h", host, "-U", "postgres", "-qtAc", query])?.good()?;
    Ok(output.out.trim().to_owned())
}

fn postgresql_answers_psql_and_pgbench(world: &World) -> Result<()> {
    assert_eq!(psql(world, "pg-v1", "show cluster_name")?, "pg-v1");
    let bench = |more: &[&str]| {
        let base = ["pgbench", "-h", "pg-v1", "-U", "postgres"];
        world.exec(CLIENT, &[&base, more, &["postgres"]].concat())?.good()
    };
    bench(&["-i", "-s", "1", "-q"])?;
    let output = bench(&["-c", "4", "-t", "50"])?;
    assert!(output.out.contains("number of failed transactions: 0"), "{output:?}");
    Ok(())
}

fn a_tcp_route_splits_postgresql(world: &World) -> Result<()> {
    routed(world, "pg", 5432, &[("pg-v1", 50), ("pg-v2", 50)])?;
    let mut first = 0;
    for _ in 0..40 {
        match psql(world, "pg", "show cluster_name")?.as_str() {
            "pg-v1" => first += 1,
            other => assert_eq!(other, "pg-v2"),
        }
    }
    assert!((5..=35).contains(&first), "pg-v1 answered {first} of 40");
    Ok(())
}

fn mariadb_answers_its_client(world: &World) -> Result<()> {
    let client =
        ["mariadb", "--no-defaults", "-h", "my", "-u", "app", "-psecret", "-N", "-e", "select 6 * 7"];
    assert_eq!(world.exec(CLIENT, &client)?.good()?.out.trim(), "42");
    Ok(())
}

fn redis_answers_its_client(world: &World) -> Result<()> {
    let redis = |command: &[&str]| world.exec(CLIENT, &[&["redis-cli", "-h", "cache"], command].concat());
    assert_eq!(redis(&["set", "thread", "warp"])?.good()?.out.trim(), "OK");
    assert_eq!(redis(&["get", "thread"])?.good()?.out.trim(), "warp");
    Ok(())
}

fn tcp_connections_are_counted(world: &World) -> Result<()> {
    world.dialogue(CLIENT, "late-v1:9000", &["send hello\\n", "line", "shut", "eof"])?.good()?;
    until("a TCP metric has counted", Duration::from_secs(5), || {
        let metrics = world.metrics(CLIENT)?;
        let counts = |line: &str| !line.starts_with('#') && line.contains("tcp") && !line.ends_with(" 0");
        ensure!(metrics.lines().any(counts), "{metrics}");
        Ok(())
    })
}
