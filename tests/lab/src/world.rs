//! A world: its objects, its pods, its control plane, and the loop that keeps everything derived from them
//! (EndpointSlices, packet filter, hosts files, volumes) in step.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::control::Control;
use crate::hosts::{hosts, rewrite};
use crate::inject;
use crate::kubelet::{PodRun, subject};
use crate::manifest::Key;
use crate::net::{self, NODE};
use crate::paths::Place;
use crate::protocol::PodName;
use crate::settle;
use crate::store::{Store, new_uid};
use crate::tokens::{Signer, Subject};

/// The name of the one node.
pub const NODE_NAME: &str = "lab";
/// The lab's own identity, with which it reads from the control plane.
pub const LAB_POD: (&str, &str) = (mesh::contract::SYSTEM_NAMESPACE, "lab");
/// Between two tries of the webhook.
const RETRY: Duration = Duration::from_millis(50);

/// What `lab up` was told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// The world's name.
    pub world: String,
    /// `strict` or `permissive`.
    pub mode: String,
    /// Life of the proxies' certificates in seconds.
    pub leaf_ttl: Option<u64>,
    /// Where the proxies send their spans.
    pub otlp_endpoint: Option<String>,
}

/// Everything of one world. It lives on one thread.
pub struct World {
    /// Names and directories.
    pub place: Place,
    /// What `lab up` was told.
    pub settings: Settings,
    /// The directory of the lab's own executable and of Heddle's.
    pub programs: PathBuf,
    /// The objects.
    pub store: RefCell<Store>,
    /// The pods that live.
    pub pods: RefCell<BTreeMap<PodName, Rc<PodRun>>>,
    /// The number of the next pod.
    pub next_pod: Cell<u16>,
    /// Signs tokens.
    pub signer: Signer,
    /// The control plane.
    pub control: Control,
    /// What the packet filter holds, per family.
    pub filter: RefCell<[String; 2]>,
    dirty: watch::Sender<u64>,
    settled: watch::Sender<u64>,
}

impl World {
    /// Makes the world's directories, key, node and own objects; starts nothing yet.
    pub fn create(place: Place, settings: Settings) -> Result<Rc<Self>> {
        place.make().context("cannot make the world's directory")?;
        let programs = std::env::current_exe()?.parent().context("the lab has no directory")?.to_owned();
        let signer = Signer::create(&place, &place.dir().join("token-key.pub"))?;
        net::make_node(&place)?;
        let world = Rc::new(Self {
            store: RefCell::new(Store::new(&place)),
            pods: RefCell::default(),
            next_pod: Cell::new(2),
            control: Control::default(),
            filter: RefCell::default(),
            dirty: watch::Sender::new(0),
            settled: watch::Sender::new(0),
            place,
            settings,
            programs,
            signer,
        });
        world.own_objects();
        tokio::task::spawn_local(settle::keep(world.clone()));
        tokio::task::spawn_local(settle::tick(world.clone()));
        Ok(world)
    }

    /// The objects that every world has.
    fn own_objects(&self) {
        let (namespace, name) = LAB_POD;
        for namespace in ["default", "kube-system", namespace] {
            self.ensure_namespace(namespace);
        }
        self.ensure_service_account(namespace, name);
        self.put(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"serviceAccountName": name, "nodeName": NODE_NAME, "hostNetwork": true, "containers": [{"name": name}]},
            "status": {"phase": "Running", "podIP": NODE.v4.to_string(), "podIPs": NODE.texts().map(|ip| json!({"ip": ip}))},
        }));
    }

    /// Makes a namespace that no manifest has made; returns whether it was missing.
    pub fn ensure_namespace(&self, name: &str) -> bool {
        let key = Key::new("Namespace", "", name);
        let missing = self.store.borrow().get(&key).is_none();
        if missing {
            self.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        }
        self.ensure_service_account(name, "default");
        missing
    }

    /// Makes a service account that no manifest has made; returns whether it was missing.
    pub fn ensure_service_account(&self, namespace: &str, name: &str) -> bool {
        let missing = self.store.borrow().get(&Key::new("ServiceAccount", namespace, name)).is_none();
        if missing {
            let metadata = json!({"namespace": namespace, "name": name});
            self.put(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}));
        }
        missing
    }

    /// Adds or changes an object and all that follows from it. A failure to write is told in the log.
    pub fn put(&self, object: Value) {
        let key = Key::of(&object);
        let done = self.store.borrow_mut().put(object);
        match done {
            Ok(false) => {}
            Ok(true) => self.touch(),
            Err(why) => eprintln!("cannot write {key}: {why}"),
        }
    }

    /// Makes an object what it was, to the letter.
    pub fn restore(&self, key: &Key, before: Option<Value>) {
        let done = self.store.borrow_mut().restore(key, before);
        done.unwrap_or_else(|why| eprintln!("cannot restore {key}: {why}"));
        self.touch();
    }

    /// Removes an object and all that follows from it.
    pub fn remove(&self, key: &Key) -> Option<Value> {
        let removed = self.store.borrow_mut().remove(key);
        self.touch();
        removed.unwrap_or_else(|why| {
            eprintln!("cannot remove {key}: {why}");
            None
        })
    }

    /// Something changed: what is derived is to be derived again.
    pub fn touch(&self) {
        self.dirty.send_modify(|n| *n += 1);
    }

    /// Waits until everything that changed so far has had its effects.
    pub async fn settled(&self) {
        let now = *self.dirty.borrow();
        let _ = self.settled.subscribe().wait_for(|n| *n >= now).await;
    }

    /// For the loop in `settle`: waits for a change, and says afterwards that it has had its effects.
    pub fn changes(&self) -> (watch::Receiver<u64>, &watch::Sender<u64>) {
        (self.dirty.subscribe(), &self.settled)
    }

    /// A pod by its name.
    pub fn pod(&self, name: &PodName) -> Result<Rc<PodRun>> {
        let found = self.pods.borrow().get(name).cloned();
        found.with_context(|| format!("there is no pod {name} (see `lab ps`)"))
    }

    /// The pod is gone: so is its object, unless a new one has its name already.
    pub fn forget(&self, run: &PodRun) {
        let key = Key::new("Pod", &run.name.namespace, &run.name.name);
        let ours = self.pods.borrow().get(&run.name).is_some_and(|other| other.uid == run.uid);
        if ours {
            self.pods.borrow_mut().remove(&run.name);
            self.remove(&key);
        }
    }

    /// Writes a pod's hosts file.
    pub fn write_hosts(&self, run: &PodRun) -> Result<()> {
        let store = self.store.borrow();
        let own: Pod = serde_json::from_value(run.object())?;
        let text = hosts(&own, &store.typed_list("Service"), &store.typed_list("EndpointSlice"));
        let path = self.place.pod(&run.uid).join("etc/hosts");
        Ok(rewrite(&path, &text)?)
    }

    /// Who a pod's token is for.
    pub fn subject(&self, name: &PodName, service_account: &str, uid: &str) -> Subject {
        let key = Key::new("ServiceAccount", &name.namespace, service_account);
        let account =
            self.store.borrow().get(&key).and_then(|o| o["metadata"]["uid"].as_str().map(str::to_owned));
        subject(name, service_account, account.unwrap_or_default(), uid)
    }

    /// What is to run in a pod: as written, or as the webhook has it. Waits for the webhook, as failurePolicy Fail
    /// makes a controller do.
    pub async fn admit(&self, run: &PodRun) -> Result<Pod> {
        let mut pod = run.pod.borrow().clone();
        pod.metadata.uid = Some(run.uid.clone());
        let namespace: Option<Namespace> =
            self.store.borrow().typed(&Key::new("Namespace", "", &run.name.namespace));
        let namespace_labels = namespace.and_then(|n| n.metadata.labels);
        if !inject::wanted(&run.name.namespace, namespace_labels.as_ref(), pod.metadata.labels.as_ref()) {
            return Ok(pod);
        }
        let uid = new_uid();
        let review = serde_json::to_vec(&inject::review(&pod, &uid))?;
        let answer = loop {
            match self.control.review(self, review.clone()).await {
                Ok(answer) => break answer,
                Err(why) => {
                    let message = format!("waits for the control plane's webhook: {why:#}");
                    run.change(self, |state| state.message = message);
                    sleep(RETRY).await;
                }
            }
        };
        let (pod, warnings) = inject::apply(&pod, &uid, &answer)?;
        for warning in warnings {
            eprintln!("{}: webhook: {warning}", run.name);
        }
        Ok(pod)
    }
}
