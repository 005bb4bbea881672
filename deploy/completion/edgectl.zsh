#compdef edgectl
autoload -U +X bashcompinit && bashcompinit
_bash_complete -C /usr/bin/edgectl
