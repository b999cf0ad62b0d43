//! The kubelet's probes of every kind in a strict world: they go to the proxy, which makes exactly the configured request.

use anyhow::Result;
use e2e::World;
use e2e::manifest::{client, meshed_namespace, pod_with};

const CLIENT: &str = "shop/client";

e2e::prove!(
    up,
    [
        pods_are_ready_by_probes_of_every_kind,
        an_https_probe_says_what_the_application_says,
        a_grpc_probe_says_what_the_service_says,
        a_probe_that_nobody_configured_is_not_made,
    ]
);

/// The world is up when all of its pods are ready, so it is their readiness probes that this proves first.
fn up() -> Result<World> {
    let manifests = [
        meshed_namespace("shop"),
        client("shop", "client"),
        https(
            "readinessProbe: {httpGet: {path: /well, port: 8443, scheme: HTTPS}, periodSeconds: 1}
livenessProbe: {httpGet: {path: /ill, port: 8443, scheme: HTTPS}, periodSeconds: 1, failureThreshold: 1000}",
        ),
        grpc(
            "readinessProbe: {grpc: {port: 50051, service: well}, periodSeconds: 1}
livenessProbe: {grpc: {port: 50051, service: ill}, periodSeconds: 1, failureThreshold: 1000}",
        ),
    ];
    World::up("probes", &["--mode", "strict"], &manifests.concat())
}

/// nginx with a certificate of its own making, which nobody can verify.
fn https(probes: &str) -> String {
    let script = "cd /data
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=nobody -keyout key.pem -out cert.pem 2>openssl.log
cat >nginx.conf <<END
daemon off; error_log stderr; pid /data/pid; events {} http { access_log off;
  client_body_temp_path /data; proxy_temp_path /data; fastcgi_temp_path /data; uwsgi_temp_path /data; scgi_temp_path /data;
  server { listen 8443 ssl; listen [::]:8443 ssl; ssl_certificate /data/cert.pem; ssl_certificate_key /data/key.pem;
    location /well { return 204; } location /ill { return 500; } } }
END
exec nginx -c /data/nginx.conf";
    in_data(&pod_with("shop", "https", "app: https", &["sh", "-ec", script], probes))
}

/// The health service of gRPC in Python: `well` serves, everything else does not.
fn grpc(probes: &str) -> String {
    let script = "
import grpc
from concurrent.futures import ThreadPoolExecutor
check = lambda request, context: b'\\x08\\x01' if request == b'\\x0a\\x04well' else b'\\x08\\x02'
handlers = {'Check': grpc.unary_unary_rpc_method_handler(check)}
server = grpc.server(ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler('grpc.health.v1.Health', handlers),))
server.add_insecure_port('[::]:50051')
server.start()
server.wait_for_termination()";
    pod_with("shop", "grpc", "app: grpc", &["/usr/bin/python3", "-c", script], probes)
}

fn in_data(pod: &str) -> String {
    let pod = pod.replace("spec:\n", "spec:\n  volumes: [{name: data, emptyDir: {}}]\n");
    pod.replace("    image: none\n", "    image: none\n    volumeMounts: [{name: data, mountPath: /data}]\n")
}

/// What the proxy of a pod answers for a probe, to whoever asks.
fn probe(world: &World, pod: &str, which: &str) -> Result<u16> {
    let ip = world.pod_ip(&format!("shop/{pod}"))?;
    Ok(world.curl(CLIENT, &[&format!("http://{ip}:15021/app-probe/app/{which}")])?.status)
}

fn pods_are_ready_by_probes_of_every_kind(world: &World) -> Result<()> {
    for pod in ["https", "grpc"] {
        assert_eq!(world.pod(&format!("shop/{pod}"))?["ready"], true, "{pod}");
    }
    Ok(())
}

fn an_https_probe_says_what_the_application_says(world: &World) -> Result<()> {
    let answers = [probe(world, "https", "readinessProbe")?, probe(world, "https", "livenessProbe")?];
    assert_eq!(answers, [204, 500]);
    Ok(())
}

fn a_grpc_probe_says_what_the_service_says(world: &World) -> Result<()> {
    let answers = [probe(world, "grpc", "readinessProbe")?, probe(world, "grpc", "livenessProbe")?];
    assert_eq!(answers, [200, 503]);
    Ok(())
}

fn a_probe_that_nobody_configured_is_not_made(world: &World) -> Result<()> {
    assert_eq!(probe(world, "https", "startupProbe")?, 404);
    Ok(())
}
