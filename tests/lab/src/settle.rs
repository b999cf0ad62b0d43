//! Derives again what follows from the objects whenever one changes: EndpointSlices, the packet filter, hosts files
//! and volumes.

use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::json;

use crate::endpoints;
use crate::kubeproxy::{Family, rules};
use crate::net::{NODE, inside, run};
use crate::world::World;

/// How often tokens' ages and the mesh's bundle are looked at.
const TICK: Duration = Duration::from_millis(250);
/// The ConfigMap with the mesh's root certificate that every namespace has.
const BUNDLE: (&str, &str) = (mesh::contract::BUNDLE_CONFIG_MAP, mesh::contract::BUNDLE_KEY);

/// Settles after every change, for ever.
pub async fn keep(world: Rc<World>) {
    let (mut changes, settled) = world.changes();
    loop {
        let seen = *changes.borrow_and_update();
        settle(&world).await;
        settled.send_replace(seen);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Renews tokens and hands the bundle out, for ever.
pub async fn tick(world: Rc<World>) {
    loop {
        tokio::time::sleep(TICK).await;
        hand_out_bundle(&world);
        publish_volumes(&world);
    }
}

async fn settle(world: &World) {
    let services: Vec<Service> = world.store.borrow().typed_list("Service");
    let pods: Vec<Pod> = world.store.borrow().typed_list("Pod");
    write_slices(world, &services, &pods);
    for run in runs(world) {
        if let Err(why) = world.write_hosts(&run) {
            eprintln!("{}: cannot write its hosts file: {why:#}", run.name);
        }
    }
    publish_volumes(world);
    program_filter(world, &services).await;
}

/// Pods that have their directory.
fn runs(world: &World) -> Vec<Rc<crate::kubelet::PodRun>> {
    let pods = world.pods.borrow();
    pods.values().filter(|run| world.place.pod(&run.uid).join("etc").exists()).cloned().collect()
}

fn write_slices(world: &World, services: &[Service], pods: &[Pod]) {
    let wanted = endpoints::all(services, pods);
    let keys: Vec<_> = wanted.iter().map(crate::manifest::Key::of).collect();
    let over: Vec<_> = {
        let store = world.store.borrow();
        let ours = store.list("EndpointSlice").filter(|(_, slice)| endpoints::managed(slice));
        ours.map(|(key, _)| key.clone()).filter(|key| !keys.contains(key)).collect()
    };
    let mut store = world.store.borrow_mut();
    for slice in wanted {
        let done = store.put(slice);
        done.map_or_else(|why| eprintln!("cannot write an EndpointSlice: {why}"), drop);
    }
    for key in over {
        store.remove(&key).map_or_else(|why| eprintln!("cannot remove {key}: {why}"), drop);
    }
}

/// Off the world's thread: a restore takes tens of milliseconds, in which pods should go on starting.
async fn program_filter(world: &World, services: &[Service]) {
    let slices: Vec<_> = world.store.borrow().typed_list("EndpointSlice");
    let wanted = [
        rules(Family::V4, services, &slices, NODE.v4.into()),
        rules(Family::V6, services, &slices, NODE.v6.into()),
    ];
    let programs = ["iptables-restore", "ip6tables-restore"];
    let restores = [0, 1].map(|family| {
        let text = wanted[family].clone();
        let netns = world.place.node_netns();
        let needed = world.filter.borrow()[family] != text;
        needed.then(|| {
            let restore = move || inside(&netns, || run(&mut Command::new(programs[family]), &text));
            tokio::task::spawn_blocking(restore)
        })
    });
    for ((family, text), restore) in wanted.into_iter().enumerate().zip(restores) {
        let Some(restore) = restore else { continue };
        match restore.await {
            Ok(Ok(())) => world.filter.borrow_mut()[family] = text,
            Ok(Err(why)) => eprintln!("kube-proxy: {why:#}"),
            Err(why) => eprintln!("kube-proxy: {why}"),
        }
    }
}

fn publish_volumes(world: &World) {
    for run in runs(world) {
        // What is missing is told where the pod waits for it; a running pod keeps what it has.
        let _ = run.publish_volumes(world);
    }
}

fn hand_out_bundle(world: &World) {
    let Ok(pem) = std::fs::read_to_string(world.place.bundle()) else { return };
    let namespaces: Vec<_> =
        world.store.borrow().list("Namespace").map(|(key, _)| key.name.clone()).collect();
    for namespace in namespaces {
        world.put(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": namespace, "name": BUNDLE.0},
            "data": {BUNDLE.1: pem},
        }));
    }
}
