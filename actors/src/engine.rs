//! The engine: starts the actor tree, watches over it, and stops it without losing what is under way.
use std::sync::Arc;
use std::time::{Duration, Instant};

use dripline_domain::{CountingRules, DoubtPolicy, LeadIdKey, RetryPolicy, Sanitiser, Sequence, SoftBouncePolicy};
use ractor::{ActorCell, ActorRef, SpawnErr};
use ractor_supervisor::{
    ChildBackoffFn, ChildSpec, Restart, SpawnFn, Supervisor, SupervisorArguments, SupervisorMsg, SupervisorOptions,
    SupervisorStrategy,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::breaker::BreakerLimits;
use crate::committer::Committer;
use crate::control::Controller;
use crate::due::Due;
use crate::feedback::FeedbackIntake;
use crate::intake::Intake;
use crate::leads::{LeadLimits, Leads, Newcomers, Services};
use crate::limiter::{Rate, RateLimiter};
use crate::metrics::{Metrics, starts};
use crate::outgoing::{OutgoingActor, OutgoingArguments, Subscriber};
use crate::ports::{
    Clock, Composer, Controls, Esp, FeedbackReader, Inbox, Journal, LeadStore, Ledger, Leftovers, Presence, Rejected,
    Sequences, StatisticsStore, Suppressions, Timers,
};
use crate::presence::{PresenceActor, PresenceArguments};
use crate::provider::Providers;
use crate::pump::{Consume, Places, PumpActor, PumpArguments};
use crate::statistics::{StatisticsActor, StatisticsArguments};
use crate::sweeper::{SweeperActor, SweeperArguments};

/// How an engine works; every limit is a count of messages or leads.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Names this process, and no other, ever.
    pub owner: String,
    /// Leads in memory, and when they are let go and parked.
    pub leads: LeadLimits,
    /// Fired timers at work at a time.
    pub due_in_flight: usize,
    /// Arrivals at work at a time.
    pub intake_in_flight: usize,
    /// Events of providers at work at a time.
    pub feedback_in_flight: usize,
    /// Calls to the provider at a time.
    pub calls_in_flight: usize,
    /// How fast emails leave, of all processes together; none for as fast as can be.
    pub rate: Option<Rate>,
    /// A call that could not begin so long after its intent is not made.
    pub call_within: Duration,
    /// So long after an intent its answer counts as lost; longer than `call_within` by what a call may take, and by what
    /// clocks may differ.
    pub answer_within: Duration,
    /// When failed attempts are tried again.
    pub retry: RetryPolicy,
    /// What is done about lost answers.
    pub doubt: DoubtPolicy,
    /// When emails that do not arrive are too many.
    pub soft_bounces: SoftBouncePolicy,
    /// When a failing provider is left alone, and for how long.
    pub breaker: BreakerLimits,
    /// A queue delivers again what it has heard nothing of for so long.
    pub ack_wait: Duration,
    /// Between two sweeps.
    pub sweep_every: Duration,
    /// What is counted, and when a sequence is paused.
    pub counting: CountingRules,
    /// How raw leads are cleaned.
    pub sanitiser: Sanitiser,
    /// Makes lead ids.
    pub lead_ids: LeadIdKey,
}

/// The world, as the engine needs it.
#[derive(Clone)]
pub struct Ports {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The leads' documents.
    pub store: Arc<dyn LeadStore>,
    /// Their timers.
    pub timers: Arc<dyn Timers>,
    /// Who must not be mailed.
    pub suppressions: Arc<dyn Suppressions>,
    /// The sequences.
    pub sequences: Arc<dyn Sequences>,
    /// Renders emails.
    pub composer: Arc<dyn Composer>,
    /// Send them, in order of preference; at least one.
    pub esps: Vec<Arc<dyn Esp>>,
    /// Keeps what cannot be processed.
    pub rejected: Arc<dyn Rejected>,
    /// For the sweeper.
    pub ledger: Arc<dyn Ledger>,
    /// Which other engines are alive.
    pub presence: Arc<dyn Presence>,
    /// Raw leads.
    pub leads: Arc<dyn Inbox>,
    /// Fired timers.
    pub due: Arc<dyn Inbox>,
    /// Events of providers.
    pub feedback: Arc<dyn Inbox>,
    /// Reads them.
    pub feedback_reader: Arc<dyn FeedbackReader>,
    /// What is held back.
    pub controls: Arc<dyn Controls>,
    /// Every transition.
    pub journal: Arc<dyn Journal>,
    /// What they come to.
    pub statistics: Arc<dyn StatisticsStore>,
    /// Who wants to hear of them.
    pub subscribers: Vec<Subscriber>,
    /// What these do not have yet.
    pub leftovers: Arc<dyn Leftovers>,
}

/// A running engine.
pub struct Engine {
    root: ActorRef<SupervisorMsg>,
    tree: JoinHandle<()>,
    stopping: watch::Sender<bool>,
    controller: Controller,
    places: [Places; 3],
    providers: Providers,
}

/// The actor tree did not start.
#[derive(Debug, thiserror::Error)]
#[error("the actor tree did not start")]
pub struct StartError(#[from] SpawnErr);

/// Restarts of the tree's own actors within [`MELTDOWN_WINDOW`] before the engine gives up and says so.
pub(crate) const MELTDOWN_RESTARTS: usize = 10;
pub(crate) const MELTDOWN_WINDOW: Duration = Duration::from_mins(1);

impl Engine {
    /// Starts the tree; it works when this returns.
    pub async fn start(ports: Ports, settings: Settings) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new());
        let (stopping, stopped) = watch::channel(false);
        let (is_first, first) = watch::channel(true);
        let (committer, limiter, leads) = (Committer::new(), RateLimiter::new(&metrics), Leads::new());
        let providers = Providers::new(
            &ports.esps,
            settings.calls_in_flight,
            settings.breaker,
            &limiter,
            &ports.controls,
            &ports.clock,
        );
        let services = Arc::new(Services {
            owner: settings.owner.as_str().into(),
            answer_within: settings.answer_within,
            call_within: settings.call_within,
            retry: settings.retry,
            doubt: settings.doubt,
            soft_bounces: settings.soft_bounces,
            clock: Arc::clone(&ports.clock),
            store: Arc::clone(&ports.store),
            timers: Arc::clone(&ports.timers),
            suppressions: Arc::clone(&ports.suppressions),
            controls: Arc::clone(&ports.controls),
            sequences: Arc::clone(&ports.sequences),
            composer: Arc::clone(&ports.composer),
            rejected: Arc::clone(&ports.rejected),
            committer: committer.clone(),
            limiter: limiter.clone(),
            providers: providers.clone(),
            metrics: Arc::clone(&metrics),
            leads: leads.clone(),
            newcomers: Newcomers::new(),
            no_sequence: Arc::new(Sequence::default()),
        });
        let intake = Arc::new(Intake {
            services: Arc::clone(&services),
            sanitiser: settings.sanitiser.clone(),
            lead_ids: settings.lead_ids.clone(),
        });
        let controller = Controller { services: Arc::clone(&services), lead_ids: settings.lead_ids.clone() };
        let due = Arc::new(Due { services: Arc::clone(&services) });

        let feedback = Arc::new(FeedbackIntake {
            services: Arc::clone(&services),
            reader: Arc::clone(&ports.feedback_reader),
            lead_ids: settings.lead_ids.clone(),
        });

        let in_flight = [settings.due_in_flight, settings.intake_in_flight, settings.feedback_in_flight];
        let places = in_flight.map(Places::new);

        let silence = settings.ack_wait / 3;
        let name = |actor: &str| format!("{}/{actor}", settings.owner);
        // In the order of dependence: when one fails, it and all after it are restarted.
        let mut child_specs = vec![
            child(name("committer"), {
                let (store, metrics) = (Arc::clone(&ports.store), Arc::clone(&metrics));
                move || committer.actor(Arc::clone(&store), Arc::clone(&metrics))
            }),
            child(name("rate-limiter"), {
                let (limiter, clock) = (limiter.clone(), Arc::clone(&ports.clock));
                move || limiter.actor(settings.rate, Arc::clone(&clock))
            }),
            child(name("presence"), {
                let arguments = PresenceArguments {
                    owner: settings.owner.clone(),
                    started: Instant::now(),
                    presence: Arc::clone(&ports.presence),
                    limiter,
                    clock: Arc::clone(&ports.clock),
                    metrics: Arc::clone(&metrics),
                    is_first,
                };
                move || (PresenceActor, arguments.clone())
            }),
        ];
        child_specs.extend(providers.actors().map(|provider| {
            let provider = provider.clone();
            child(name(&format!("provider-{}", provider.name())), move || provider.actor())
        }));
        child_specs.extend([
            child(name("leads"), {
                let leads = leads.clone();
                move || leads.actor(Arc::clone(&services), settings.leads)
            }),
            child(name("due-pump"), {
                let (inbox, places, stopping) = (Arc::clone(&ports.due), places[0].clone(), stopped.clone());
                move || pump(&inbox, Arc::clone(&due) as _, &places, silence, &stopping)
            }),
            child(name("intake-pump"), {
                let (inbox, places, stopping) = (Arc::clone(&ports.leads), places[1].clone(), stopped.clone());
                move || pump(&inbox, Arc::clone(&intake) as _, &places, silence, &stopping)
            }),
            child(name("feedback-pump"), {
                let (inbox, places, stopping) = (Arc::clone(&ports.feedback), places[2].clone(), stopped.clone());
                move || pump(&inbox, Arc::clone(&feedback) as _, &places, silence, &stopping)
            }),
            child(name("statistics"), {
                let arguments = StatisticsArguments {
                    journal: Arc::clone(&ports.journal),
                    store: Arc::clone(&ports.statistics),
                    controls: Arc::clone(&ports.controls),
                    rules: Arc::new(settings.counting),
                    stopping: stopped.clone(),
                };
                move || (StatisticsActor, arguments.clone())
            }),
        ]);
        child_specs.extend(ports.subscribers.into_iter().map(|subscriber| {
            let actor = format!("outgoing-{}", subscriber.webhook.name());
            let arguments = OutgoingArguments {
                subscriber,
                controls: Arc::clone(&ports.controls),
                leftovers: Arc::clone(&ports.leftovers),
                rejected: Arc::clone(&ports.rejected),
                clock: Arc::clone(&ports.clock),
                stopping: stopped.clone(),
            };
            child(name(&actor), move || (OutgoingActor, arguments.clone()))
        }));
        child_specs.push(child(name("sweeper"), {
            let (metrics, every) = (Arc::clone(&metrics), settings.sweep_every);
            move || {
                let arguments = SweeperArguments {
                    ledger: Arc::clone(&ports.ledger),
                    timers: Arc::clone(&ports.timers),
                    clock: Arc::clone(&ports.clock),
                    metrics: Arc::clone(&metrics),
                    every,
                    is_first: first.clone(),
                    stopping: stopped.clone(),
                };
                (SweeperActor, arguments)
            }
        }));
        let options = SupervisorOptions {
            strategy: SupervisorStrategy::RestForOne,
            max_restarts: MELTDOWN_RESTARTS,
            max_window: MELTDOWN_WINDOW,
            reset_after: Some(MELTDOWN_WINDOW),
        };
        let (root, tree) = Supervisor::spawn(name("root"), SupervisorArguments { child_specs, options }).await?;
        Ok(Self { root, tree, stopping, controller, places, providers })
    }

    /// What operators can do and see of it.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Its providers.
    pub fn providers(&self) -> &Providers {
        &self.providers
    }

    /// Resolves when the tree has ended: after [`Engine::stop`], or because restarting did not help.
    pub async fn ended(&mut self) {
        // A join error is a panic of the root: it has ended as well.
        let _ = (&mut self.tree).await;
    }

    /// Stops pulling, waits for what is in flight (at most `patience`), then ends the tree.
    /// What is not finished by then is delivered again to the next engine.
    pub async fn stop(mut self, patience: Duration) {
        self.stopping.send_replace(true);
        let at_work = || self.places.iter().map(Places::taken).sum::<usize>();
        let drained = async {
            while at_work() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(patience, drained).await.is_err() {
            tracing::warn!(messages = at_work(), "stopping with leads at work; their messages will be delivered again");
        }
        self.root.stop(None);
        self.ended().await;
    }
}

fn pump(
    inbox: &Arc<dyn Inbox>,
    consume: Arc<dyn Consume>,
    places: &Places,
    silence: Duration,
    stopping: &watch::Receiver<bool>,
) -> (PumpActor, PumpArguments) {
    let (inbox, places, stopping) = (Arc::clone(inbox), places.clone(), stopping.clone());
    let arguments = PumpArguments { inbox, consume, places, silence, stopping };
    (PumpActor, arguments)
}

pub(crate) fn child<A, F>(id: String, make: F) -> ChildSpec
where
    A: ractor::Actor,
    F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
{
    let starts = starts(id.rsplit('/').next().unwrap_or(&id));
    ChildSpec {
        id,
        restart: Restart::Permanent,
        spawn_fn: SpawnFn::new(move |supervisor: ActorCell, id: String| {
            let (actor, arguments) = make();
            starts.increment(1);
            async move { Ok(Supervisor::spawn_linked(id, actor, arguments, supervisor).await?.0.get_cell()) }
        }),
        backoff_fn: Some(ChildBackoffFn::new(|_, restarts, _, _| {
            // 0, 100 ms, 200 ms, … up to 3.2 s.
            (restarts > 0).then(|| Duration::from_millis(50 << restarts.min(6)))
        })),
        reset_after: Some(MELTDOWN_WINDOW),
    }
}
