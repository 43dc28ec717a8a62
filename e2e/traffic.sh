# shellcheck shell=bash disable=SC2034,SC2016
# Small programs that send and note, for suites that look at flows while something happens; sourced.

# A server that notes every line it gets, and a client that sends one every 5 ms for ever.
listen='use IO::Socket::INET; $|=1; my $s=IO::Socket::INET->new(LocalPort=>$ARGV[0],Listen=>1,ReuseAddr=>1) or die "listen: $!"; print "ready\n"; my $c=$s->accept; print while <$c>; print "closed\n"'
talk='use IO::Socket::INET; my $c=IO::Socket::INET->new(PeerAddr=>$ARGV[0],PeerPort=>$ARGV[1],Timeout=>5) or die "connect: $!"; $c->autoflush(1); $SIG{PIPE}="IGNORE"; my $n=0; while(print $c $n++."\n"){select undef,undef,undef,0.005}'
hear='use IO::Socket::INET; $|=1; my $s=IO::Socket::INET->new(LocalPort=>$ARGV[0],Proto=>"udp") or die "bind: $!"; print "ready\n"; while(defined $s->recv(my $d,64)){print "heard\n"}'
# Every packet from a port of its own: each would open a flow.
flood='use IO::Socket::INET; for(;;){my $s=IO::Socket::INET->new(PeerAddr=>$ARGV[0],PeerPort=>$ARGV[1],Proto=>"udp") or next; $s->send("x"); select undef,undef,undef,0.001}'
# Asks every address of some networks for an echo, again and again, and names each that answers, once; both families. As
# many a second as are told; what was sent is told at the end, so that silence can be told from a prober that did nothing.
sweep='use Socket qw(:DEFAULT inet_pton inet_ntop pack_sockaddr_in6 unpack_sockaddr_in6 AF_INET6 PF_INET6); $|=1; my $rate=shift; my @all;
for my $net (@ARGV) { my ($a,$len)=split m{/},$net; my $six=$a=~/:/; my $raw=inet_pton($six?AF_INET6:AF_INET,$a); my $count=1<<(($six?128:32)-$len);
  for my $i (0..$count-1) { my $one=$raw; my $low=unpack("N",substr($one,-4))+$i; substr($one,-4)=pack("N",$low); push @all,[$six,$six?pack_sockaddr_in6(0,$one):pack_sockaddr_in(0,$one)]; } }
my @s; socket($s[0],PF_INET,SOCK_RAW,1) or die "socket: $!"; socket($s[1],PF_INET6,SOCK_RAW,58) or die "socket: $!";
setsockopt($_,SOL_SOCKET,SO_RCVBUF,4<<20) for @s; my $id=$$&0xffff; my %seen; my ($sent,$end)=(0,0); my $begun=time; $SIG{TERM}=sub{$end=1};
sub sum { my $t=0; $t+=$_ for unpack "n*",$_[0]; $t=($t&0xffff)+($t>>16) while $t>>16; ~$t&0xffff }
sub hark { for my $six (0,1) { while (defined(my $from=recv($s[$six],my $d,2048,MSG_DONTWAIT))) { my $o=$six?0:20; next if length($d)<$o+8; my ($t,$i)=(unpack("C",substr($d,$o,1)),unpack("n",substr($d,$o+4,2)));
  next unless $i==$id && $t==($six?129:0); my $a=inet_ntop($six?AF_INET6:AF_INET,$six?(unpack_sockaddr_in6($from))[1]:(unpack_sockaddr_in($from))[1]); print "answered $a\n" unless $seen{$a}++ } } }
print "ready\n"; my $n=0; while(!$end) { for my $to (@all) { $n=($n+1)&0xffff; my $p=$to->[0]?pack("CCnnn",128,0,0,$id,$n):pack("CCnnn",8,0,sum(pack("CCnnn",8,0,0,$id,$n)),$id,$n);
  send($s[$to->[0]],$p,0,$to->[1]); $sent++; unless ($sent%32) { hark(); select undef,undef,undef,32/$rate } } hark() } hark(); printf "sent %d in %d\n",$sent,time-$begun'
lines() { wc -l <"$1"; }
grows() { local before; before="$(lines "$1")"; within 60 eval "[ \"\$(wc -l <'$1')\" -gt $((before + 20)) ]"; }
