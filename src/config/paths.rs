//! Where a peer's data and its config file are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::problem::ConfigError;

/// Name of the config file within a data directory.
pub const CONFIG_FILE: &str = "config.toml";

/// What of the process's surroundings decides about paths.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `CAIRN_DATA_DIR`
    pub cairn_data_dir: Option<OsString>,
    /// `CAIRN_CONFIG`
    pub cairn_config: Option<OsString>,
    /// `XDG_DATA_HOME`
    pub xdg_data_home: Option<OsString>,
    /// `HOME`
    pub home: Option<OsString>,
    /// Whether the user is root.
    pub is_root: bool,
}

impl Environment {
    /// Of this process.
    pub fn of_process() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Environment {
            cairn_data_dir: var("CAIRN_DATA_DIR"),
            cairn_config: var("CAIRN_CONFIG"),
            xdg_data_home: var("XDG_DATA_HOME"),
            home: var("HOME"),
            is_root: rustix::process::geteuid().is_root(),
        }
    }
}

/// The two paths everything else follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The config file.
    pub config_file: PathBuf,
    /// Whether the user named the config file, so that it must exist.
    pub config_is_named: bool,
}

impl Paths {
    /// Flags win over the environment, the environment over the defaults.
    ///
    /// The default data directory is `$XDG_DATA_HOME/cairn`, else `~/.local/share/cairn`, and
    /// `/var/lib/cairn` for root.
    ///
    /// # Errors
    /// If nothing says where the data is.
    pub fn resolve(
        data_dir: Option<&Path>,
        config_file: Option<&Path>,
        environment: &Environment,
    ) -> Result<Paths, ConfigError> {
        let named = |flag: Option<&Path>, variable: &Option<OsString>| {
            flag.map(Path::to_owned)
                .or_else(|| variable.clone().map(PathBuf::from))
        };
        let data_dir = match named(data_dir, &environment.cairn_data_dir) {
            Some(dir) => dir,
            None => default_data_dir(environment).ok_or(ConfigError::NoDataDir)?,
        };
        let config = named(config_file, &environment.cairn_config);
        Ok(Paths {
            config_is_named: config.is_some(),
            config_file: config.unwrap_or_else(|| data_dir.join(CONFIG_FILE)),
            data_dir,
        })
    }
}

fn default_data_dir(environment: &Environment) -> Option<PathBuf> {
    if environment.is_root {
        return Some(PathBuf::from("/var/lib/cairn"));
    }
    let absolute = |value: &Option<OsString>| {
        // The XDG specification says that relative paths are to be ignored.
        value
            .clone()
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute(&environment.xdg_data_home)
        .or_else(|| absolute(&environment.home).map(|home| home.join(".local/share")))
        .map(|base| base.join("cairn"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_environment_and_it_over_the_defaults() {
        let mut environment = Environment {
            home: Some("/home/a".into()),
            ..Environment::default()
        };
        let resolve = |environment: &Environment, dir: Option<&str>, file: Option<&str>| {
            Paths::resolve(dir.map(Path::new), file.map(Path::new), environment).unwrap()
        };
        let paths = resolve(&environment, None, None);
        assert_eq!(paths.data_dir, Path::new("/home/a/.local/share/cairn"));
        assert_eq!(
            paths.config_file,
            Path::new("/home/a/.local/share/cairn/config.toml")
        );
        assert!(!paths.config_is_named);

        environment.xdg_data_home = Some("relative".into());
        assert_eq!(resolve(&environment, None, None), paths);
        environment.xdg_data_home = Some("/xdg".into());
        assert_eq!(
            resolve(&environment, None, None).data_dir,
            Path::new("/xdg/cairn")
        );
        environment.is_root = true;
        assert_eq!(
            resolve(&environment, None, None).data_dir,
            Path::new("/var/lib/cairn")
        );
        environment.cairn_data_dir = Some("/env".into());
        environment.cairn_config = Some("/env.toml".into());
        let paths = resolve(&environment, None, None);
        assert_eq!(paths.data_dir, Path::new("/env"));
        assert_eq!(paths.config_file, Path::new("/env.toml"));
        assert!(paths.config_is_named);
        let paths = resolve(&environment, Some("/flag"), Some("/flag.toml"));
        assert_eq!(paths.data_dir, Path::new("/flag"));
        assert_eq!(paths.config_file, Path::new("/flag.toml"));

        let nothing = Environment::default();
        assert!(Paths::resolve(None, None, &nothing).is_err());
    }
}
