use std::sync::{Arc, PoisonError, RwLock};

use ractor::{ActorRef, Message};

/// Where an actor can be reached, whichever incarnation of it is alive: a restarted actor puts its new reference here,
/// and every handle that shares the slot finds it.
pub(crate) struct Slot<M>(Arc<RwLock<Option<ActorRef<M>>>>);

/// The actor is being restarted, or the engine is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {0} actor is not running")]
pub struct NotRunning(pub &'static str);

impl<M: Message> Slot<M> {
    pub(crate) fn empty() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn occupy(&self, actor: ActorRef<M>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(actor);
    }

    /// Hands a message to the actor. On failure the message is dropped, and with it any reply channel in it.
    pub(crate) fn cast(&self, name: &'static str, message: M) -> Result<(), NotRunning> {
        let guard = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let actor = guard.as_ref().ok_or(NotRunning(name))?;
        actor.cast(message).map_err(|_| NotRunning(name))
    }
}

impl<M> Clone for Slot<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
