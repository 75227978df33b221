//! What this process denies to its neighbours on the same machine, whoever started it and how.
//!
//! Owns three settings of the process that are inherited from whoever starts it: the limit of core dumps, whether other
//! processes of the same user may look inside, and the permissions of new files. Invariant: [`harden`] comes before the
//! first secret is read.

use std::io;

use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, setrlimit, umask},
};

/// Writes no core dump, lets no process of the same user read this one's memory or environment, and makes every new file
/// and folder private to its user.
///
/// Without this, a crash would leave a file with all secrets, `/proc/<pid>/mem` and `/proc/<pid>/environ` would be open to
/// whoever runs as the same user, and log files would be as readable as the umask of a shell makes them. A process with
/// `CAP_SYS_PTRACE`, and root in most cases, looks inside all the same.
///
/// The last of the three cannot fail; the others can where a sandbox forbids the calls. The error is the first one, after
/// everything was tried; the process may go on. Not inherited by programs that are started, of which there are none.
pub fn harden() -> io::Result<()> {
    umask(Mode::RWXG | Mode::RWXO);
    let cores = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    // Resets at each exec, so it cannot come from a parent, and it stops dumps by a piped core_pattern, too.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(cores?)
}
