//! What the control plane counts, for Prometheus. Series are few and fixed: none is named by a caller.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::index::State;

/// The counters, and the registry that names them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    injections: Family<Injected, Counter>,
    watches: Gauge<i64, AtomicI64>,
    objects: Family<OfKind, Gauge>,
    broken_files: Gauge,
    generation: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    what: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Injected {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

impl Metrics {
    /// All counters at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("heddle_injector"),
            requests: Family::default(),
            injections: Family::default(),
            watches: Gauge::default(),
            objects: Family::default(),
            broken_files: Gauge::default(),
            generation: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "requests",
            "Requests answered, by what they asked for and the status code",
            self.requests.clone(),
        );
        registry.register("injections", "Pods admitted, by what was done with them", self.injections.clone());
        registry.register("watches", "Watches that are open", self.watches.clone());
        registry.register("objects", "Objects known, by kind", self.objects.clone());
        registry.register("broken_files", "Manifests with an error", self.broken_files.clone());
        registry.register(
            "source_generation",
            "Changes taken from the manifests' directory",
            self.generation.clone(),
        );
    }

    /// Counts an answer on 15012: `what` is "sign", "bundle" or "read".
    pub fn answered(&self, what: &'static str, code: u16) {
        self.requests.get_or_create(&Answered { what, code }).inc();
    }

    /// Counts an admission: "patched", "skipped" or "denied".
    pub fn injected(&self, outcome: &'static str) {
        self.injections.get_or_create(&Injected { outcome }).inc();
    }

    /// Counts a watch that opens.
    pub fn watch_opened(&self) {
        self.watches.inc();
    }

    /// Counts a watch that ends.
    pub fn watch_closed(&self) {
        self.watches.dec();
    }

    /// Sets what the source holds.
    pub fn source(&self, generation: u64, broken_files: usize) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.broken_files.set(i64::try_from(broken_files).unwrap_or(i64::MAX));
    }

    /// Everything, in the text format of OpenMetrics.
    pub fn text(&self, state: &State) -> String {
        for (kind, count) in state.counts() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.objects.get_or_create(&OfKind { kind: kind.as_str() }).set(count);
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
