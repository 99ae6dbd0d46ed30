//! `redundancy`: tells or sets which redundancy is wanted at a path of a mounted volume.

use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;

use super::args::{PolicyArg, RedundancyArgs};
use super::failure::Failure;
use super::mount::absolute;
use super::output::Output;
use super::umount::serving;
use crate::admin::types::{HexPath, PathPolicy, PathRequest};
use crate::admin::{AdminError, Backend};
use crate::base::ByteSize;
use crate::config::Paths;

/// The attribute that says it; see `docs/SEMANTICS.md`.
const XATTR: &str = "user.cairn.redundancy";

pub(super) async fn run(
    paths: &Paths,
    output: &Output,
    args: &RedundancyArgs,
) -> Result<(), Failure> {
    let client = serving(paths).await?;
    let request = || -> Result<PathRequest, Failure> {
        let path_hex = HexPath::new(&absolute(&args.path)?);
        Ok(PathRequest { path_hex })
    };
    // Whether the path is in a volume at all is found out before anything is set.
    let mut policy = client.path_policy(request()?).await?;
    if let Some(wanted) = &args.redundancy {
        let text = match wanted {
            PolicyArg::Set(redundancy) => redundancy.to_string(),
            PolicyArg::Inherit => "inherit".to_owned(),
        };
        // By the path, so that it takes the rights that it takes to change the file.
        let set = setxattr(&args.path, XATTR, text.as_bytes(), XattrFlags::empty());
        set.map_err(|errno| refused(&policy.path, errno))?;
        policy = client.path_policy(request()?).await?;
    }
    match output.json {
        true => Ok(output.document(&policy)?),
        false => Ok(output.line(&sentence(&policy))?),
    }
}

fn refused(path: &str, errno: Errno) -> AdminError {
    let error = std::io::Error::from(errno);
    let message = format!("the redundancy of {path} cannot be set: {error}");
    match errno {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => AdminError::refused(message),
        Errno::NOENT => AdminError::missing(message),
        _ => AdminError::failed(message),
    }
}

fn sentence(policy: &PathPolicy) -> String {
    let mut line = policy.redundancy.clone();
    if policy.redundancy != policy.stored_as {
        line += &format!(", which is {} now", policy.stored_as);
    }
    line += &match &policy.set_on {
        Some(set_on) if *set_on == policy.path => "; set here".to_owned(),
        Some(set_on) => format!("; set on {set_on}"),
        None => format!("; that of the volume `{}`", policy.volume),
    };
    if policy.recode_bytes > 0 {
        let bytes = ByteSize(policy.recode_bytes);
        line += &format!("; {bytes} are stored otherwise, and are stored anew in the background");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_says_what_counts_and_what_is_left() {
        let mut policy = PathPolicy {
            path: "/mnt/a".to_owned(),
            volume: "home".to_owned(),
            redundancy: "4+2".to_owned(),
            stored_as: "4+2".to_owned(),
            ..PathPolicy::default()
        };
        assert_eq!(sentence(&policy), "4+2; that of the volume `home`");
        policy.set_on = Some("/mnt".to_owned());
        policy.redundancy = "auto".to_owned();
        assert_eq!(sentence(&policy), "auto, which is 4+2 now; set on /mnt");
        policy.set_on = Some("/mnt/a".to_owned());
        policy.recode_bytes = 3 << 20;
        assert!(sentence(&policy).ends_with(
            "; set here; 3 MiB are stored otherwise, and are stored anew in the background"
        ));
    }
}
