//! Ctrl-C and SIGTERM: the first asks for an end in good order, the second does not ask.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::failure::INTERRUPTED;

/// Tells whether the user wants an end. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Takes both signals over. Within a tokio runtime, once.
    pub(super) fn install() -> io::Result<Interrupt> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if sender.send_replace(true) {
                    std::process::exit(i32::from(INTERRUPTED));
                }
            }
        });
        Ok(Interrupt(receiver))
    }

    /// Waits for the first signal.
    pub(super) async fn wait(&self) {
        let mut receiver = self.0.clone();
        // Without its sender no signal can come any more.
        if receiver.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
