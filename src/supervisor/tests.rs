//! What is spawned, what is drained, and what signals do.

use super::*;

#[derive(Debug, thiserror::Error)]
#[error("the port is taken")]
struct PortTaken;

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn a_critical_task_that_returns_begins_shutdown_and_is_named() {
    let supervisor = Supervisor::new();
    supervisor.spawn_critical("the server", async { Ok::<(), PortTaken>(()) });
    supervisor.shutdown_token().cancelled().await;
    let reason = supervisor.shutdown_reason().unwrap();
    assert!(reason.is_failure());
    assert_eq!(reason.to_string(), "the server ended although it must not");
}

#[tokio::test(start_paused = true)]
async fn a_critical_task_that_fails_gives_its_error_as_the_reason() {
    let supervisor = Supervisor::new();
    supervisor.spawn_critical("the server", async { Err(PortTaken) });
    supervisor.shutdown_token().cancelled().await;
    let reason = supervisor.shutdown_reason().unwrap();
    assert_eq!(reason.to_string(), "the server failed: the port is taken");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_any_spawned_task_begins_shutdown() {
    let supervisor = Supervisor::new();
    supervisor.spawn("the helper", async { panic!("no more ink") });
    supervisor.shutdown_token().cancelled().await;
    let reason = supervisor.shutdown_reason().unwrap();
    assert!(reason.is_failure());
    assert_eq!(reason.to_string(), "the helper panicked: no more ink");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_main_part_begins_shutdown_instead_of_unwinding_through_the_process() {
    let supervisor = Supervisor::new();
    assert_eq!(supervisor.run("the loop", async { 7 }).await, Some(7));
    assert_eq!(supervisor.shutdown_reason(), None);
    let broken = async {
        tokio::task::yield_now().await;
        panic!("no more ink")
    };
    assert_eq!(supervisor.run::<_>("the loop", broken).await, None::<()>);
    let reason = supervisor.shutdown_reason().unwrap();
    assert!(reason.is_failure());
    assert_eq!(reason.to_string(), "the loop panicked: no more ink");
    assert!(supervisor.shutdown_token().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_critical_task_that_ends_after_shutdown_began_is_no_failure() {
    let supervisor = Supervisor::new();
    let token = supervisor.shutdown_token();
    supervisor.spawn_critical("the server", async move {
        token.cancelled().await;
        Ok::<(), PortTaken>(())
    });
    supervisor.begin_shutdown(Reason::Signal(Signal::Terminate));
    supervisor.drain(LIMIT).await.unwrap();
    assert_eq!(
        supervisor.shutdown_reason(),
        Some(Reason::Signal(Signal::Terminate))
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_reason_is_kept_unless_a_failure_follows() {
    let supervisor = Supervisor::new();
    supervisor.begin_shutdown(Reason::Requested("the work is done"));
    supervisor.begin_shutdown(Reason::Signal(Signal::Interrupt));
    assert_eq!(
        supervisor.shutdown_reason(),
        Some(Reason::Requested("the work is done"))
    );
    supervisor.spawn("the helper", async { panic!("late") });
    supervisor.drain(LIMIT).await.unwrap();
    assert!(supervisor.shutdown_reason().unwrap().is_failure());
}

#[tokio::test(start_paused = true)]
async fn drain_names_what_did_not_end_in_time() {
    let supervisor = Supervisor::new();
    supervisor.spawn("the quick one", async {});
    supervisor.spawn("the stuck one", std::future::pending());
    let error = supervisor.drain(LIMIT).await.unwrap_err();
    assert_eq!(error.names, ["the stuck one"]);
    assert_eq!(error.to_string(), "still running after 5 s: the stuck one");
}

#[tokio::test]
async fn the_first_signal_begins_shutdown_and_the_second_exits_with_its_code() {
    let supervisor = Supervisor::new();
    let (sender, exited) = tokio::sync::oneshot::channel();
    supervisor
        .handle_signals(move |code| sender.send(code).unwrap())
        .unwrap();
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::TERM).unwrap();
    tokio::time::timeout(LIMIT, supervisor.shutdown_token().cancelled())
        .await
        .unwrap();
    assert_eq!(
        supervisor.shutdown_reason(),
        Some(Reason::Signal(Signal::Terminate))
    );
    rustix::process::kill_process(this, rustix::process::Signal::INT).unwrap();
    let code = tokio::time::timeout(LIMIT, exited).await.unwrap().unwrap();
    assert_eq!(code, 130);
}

#[test]
fn a_panic_text_is_capped_at_a_character_boundary() {
    let long = "é".repeat(PANIC_TEXT_LIMIT);
    let text = panic_text(&long);
    assert!(text.len() <= PANIC_TEXT_LIMIT && text.ends_with('é'));
    assert_eq!(panic_text(&7_u8), "a panic without text");
}
