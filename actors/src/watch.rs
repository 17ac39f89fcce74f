//! The watchers of one process, apart from the engine's tree, so that they see it fail: the alerts, and the canary.
use std::sync::Arc;

use ractor::{ActorRef, SpawnErr};
use ractor_supervisor::{Supervisor, SupervisorArguments, SupervisorMsg, SupervisorOptions, SupervisorStrategy};
use tokio::task::JoinHandle;

use crate::alerts::{AlertActor, AlertSettings};
use crate::canary::{CanaryActor, CanaryPorts, CanaryState};
use crate::engine::{MELTDOWN_RESTARTS, MELTDOWN_WINDOW, StartError, child};
use crate::ports::{AlertChannel, AlertStore, Clock, Controls, FrontDoor, Surveyor};
use crate::provider::Providers;

/// The world, as the watchers need it.
#[derive(Clone)]
pub struct WatchPorts {
    /// Names this process, and no other, ever.
    pub owner: String,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The installation as a whole.
    pub surveyor: Arc<dyn Surveyor>,
    /// What is held back.
    pub controls: Arc<dyn Controls>,
    /// The queue of leads.
    pub front_door: Arc<dyn FrontDoor>,
    /// The providers of this process's engine, where it has one.
    pub providers: Option<Providers>,
    /// The alerts of all processes.
    pub alerts: Arc<dyn AlertStore>,
    /// How people are told, beside the log.
    pub channels: Vec<Arc<dyn AlertChannel>>,
    /// The canary, where there is one.
    pub canary: Option<CanaryPorts>,
}

/// The watchers, at work.
pub struct Watch {
    root: ActorRef<SupervisorMsg>,
    tree: JoinHandle<()>,
}

impl Watch {
    /// Starts them.
    ///
    /// # Errors
    /// The actor tree did not start.
    pub async fn start(ports: WatchPorts, settings: AlertSettings) -> Result<Self, StartError> {
        let name = |actor: &str| format!("{}/{actor}", ports.owner);
        let mut child_specs = vec![child(name("alerts"), {
            let ports = ports.clone();
            move || (AlertActor, (ports.clone(), settings))
        })];
        if let Some(canary) = ports.canary.clone() {
            let state = CanaryState { canary, watch: ports.clone() };
            child_specs.push(child(name("canary"), move || (CanaryActor, state.clone())));
        }
        let options = SupervisorOptions {
            strategy: SupervisorStrategy::OneForOne,
            max_restarts: MELTDOWN_RESTARTS,
            max_window: MELTDOWN_WINDOW,
            reset_after: Some(MELTDOWN_WINDOW),
        };
        let arguments = SupervisorArguments { child_specs, options };
        let (root, tree) =
            Supervisor::spawn(name("watch"), arguments).await.map_err(|error: SpawnErr| StartError::from(error))?;
        Ok(Self { root, tree })
    }

    /// Ends them. A notice on its way is told by another process, or by the next.
    pub async fn stop(self) {
        self.root.stop(None);
        // A join error is a panic of the root: it has ended as well.
        let _ = self.tree.await;
    }
}
