# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for vmctl(1). Commands and options come from vmctl --help, names from vmmd.

_vmctl_lines()
{
    # usage lines of vmctl --help, without "vmctl"
    vmctl --help 2>/dev/null | sed -n 's/^  vmctl //p'
}

# _vmctl_names KIND: names of guests or templates
_vmctl_names()
{
    case $1 in
    guest) vmctl list --format csv 2>/dev/null ;;
    template) vmctl template list --format csv 2>/dev/null ;;
    esac | sed '1d;s/,.*//'
}

_vmctl_complete()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local command="" words="" line i

    COMPREPLY=()
    case $prev in
    --disk | --kernel | --initrd | --passphrase | --backing | --output | --file)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        return
        ;;
    --format) words="table json csv" ;;
    --engine) words="auto soft kvm" ;;
    --to | --backing-format | --image-format) words="raw qcow2" ;;
    --repair) words="leaks all" ;;
    --from) words="$(_vmctl_names guest)" ;;
    --for) words="login stopped" ;;
    --bus-address) words="system session" ;;
    --share-group | --cpu-limit | --cpu-reserve) words="none" ;;
    --name | --count | --memory | -m | --vcpus | --cmdline | --timeout | -t | --linger | --priority | --shares | --delay | -d | --iterations | -n | --size | --cluster-size | --snapshot) return ;;
    esac
    if [ -n "$words" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -*) ;;
        *)
            command="${COMP_WORDS[i]}"
            case $command in
            template | image | disk) ((i + 1 < COMP_CWORD)) && command="$command ${COMP_WORDS[i + 1]}" ;;
            esac
            break
            ;;
        esac
    done
    case $command in
    "") words="$(_vmctl_lines | cut -d ' ' -f 1 | sort -u) help --help --version --bus-address --format" ;;
    template) words="import create verify export list info delete" ;;
    disk) words="attach detach list resize" ;;
    image) words="info check create convert commit rebase resize chain snapshots" ;;
    *)
        line=$(_vmctl_lines | grep -m 1 "^$command\( \|$\)")
        words="$(grep -o -e '--[a-z-]*' <<<"$line") --bus-address --format --help"
        case $cur in
        -*) ;;
        *)
            case $command in
            create | run | "template info" | "template delete" | "template verify" | "template export") words="$words $(_vmctl_names template)" ;;
            image\ *)
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -f -- "$cur")
                return
                ;;
            list | events | top | host | metrics | template\ *) ;;
            *) words="$words $(_vmctl_names guest)" ;;
            esac
            ;;
        esac
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _vmctl_complete vmctl
